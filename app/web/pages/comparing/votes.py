"""A user's own blind votes on a comparison."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.domain.comparing.ballot import VoteChoice
from app.services.comparing import votes
from app.services.comparing.computing import get_computed
from app.store.accounts import get_user_by_id
from app.store.comparing.comparisons import get_comparison
from app.store.comparing.computed import Computed
from app.store.tables import Comparison, Voter
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.rendering.ballots import BallotPart, VotePage, describe
from app.web.rendering.environment import render

router = APIRouter()

NOT_READY = "There is nothing to vote on yet: the answers are still being made. Open the comparison again when they are there."


@router.get("/comparisons/{comparison_id}/vote")
def show_vote(request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str) -> Response:
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    standing = votes.stand(session, comparison, kept, votes.identify(comparison, user.id))
    back = f"/comparisons/{comparison_id}"
    return render(request, VotePage(**describe(standing, kept, f"{back}/vote"), back=back, voter=user.name))


@router.post("/comparisons/{comparison_id}/vote")
def vote(
    request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, comparison_id: str,
    place: Annotated[int, Form(ge=0, le=10**6)], choice: Annotated[VoteChoice, Form()],
    seconds: Annotated[float, Form(ge=0, allow_inf_nan=False)] = 0.0,
) -> Response:  # fmt: skip
    """Then the next ballot; the same vote sent again changes nothing."""
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    voter = votes.enter(session, comparison, get_user_by_id(session, user.id))
    votes.cast(session, comparison, kept, voter, place, choice, seconds)
    return show_next(request, session, comparison, kept, voter)


@router.post("/comparisons/{comparison_id}/vote/undo")
def undo(
    request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, comparison_id: str,
    num_votes: Annotated[int, Form(ge=0, le=10**6)],
) -> Response:  # fmt: skip
    """Then the ballot whose vote was taken back."""
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    voter = votes.enter(session, comparison, get_user_by_id(session, user.id))
    votes.undo(session, voter, num_votes)
    return show_next(request, session, comparison, kept, voter)


def show_next(request: Request, session: WriteSession, comparison: Comparison, kept: Computed, voter: Voter) -> Response:
    address = f"/comparisons/{comparison.id}/vote"
    if not request.headers.get("hx-request"):
        return RedirectResponse(address, status_code=303)
    return render(request, BallotPart(**describe(votes.stand(session, comparison, kept, voter.id), kept, address)))
