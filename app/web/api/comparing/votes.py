"""REST: votes on a comparison, the links by which people without an account vote, and what votes and judges give to train on."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.domain.comparing.ballot import VoteChoice
from app.services.comparing import exports, vote_links, votes
from app.services.comparing.computing import get_computed
from app.store.accounts import get_user_by_id
from app.store.comparing.comparisons import get_comparison
from app.store.comparing.computed import Computed
from app.store.comparing.votes import list_links, list_voters
from app.store.sharing import get_changeable
from app.store.tables import Comparison, VoteLink
from app.web.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentFiles,
    CurrentSettings,
    CurrentUser,
    ReadSession,
    WriteSession,
)
from app.web.preferences import make_preferences
from app.web.rendering.ballots import describe

router = APIRouter(prefix="/comparisons/{comparison_id}", tags=["comparisons"])

NOT_READY = "Not all answers of this comparison are there yet: wait until its state is ready."


class BallotView(BaseModel):
    """The next pair to judge. Whose answers these are is not told."""

    place: int | None = Field(description="Names the pair in a vote; null when all have been judged.")
    messages: list[dict[str, Any]] = Field(description="The prompt.")
    left: str
    right: str
    left_earlier: list[str] = Field([], description="Of a question of several turns: the answers before.")
    right_earlier: list[str] = []
    num_votes: int
    num_ballots: int


class NewVote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    place: int = Field(ge=0, le=10**6, description="Of the ballot.")
    choice: VoteChoice
    seconds: float = Field(0, ge=0, allow_inf_nan=False, description="How long it took to decide.")


class UndoneVote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    num_votes: int = Field(ge=0, le=10**6, description="How many there are: the last of so many is taken back, once.")


class NewPreferences(BaseModel):
    model_config = ConfigDict(extra="forbid")

    judge: str = Field("votes", max_length=64, description="votes, or the key of a judge that ranks.")
    margin: float = Field(0, ge=0, allow_inf_nan=False, description="Pairs that differ by no more are left out.")
    name: str = Field("", max_length=120, description="Empty: made from the comparison's name.")


class MadeDataset(BaseModel):
    id: str = Field(description="Of the data set, which may still be read.", examples=["data_01kb4y7v3m2q8d5n6c9t0r1x2z"])


class VoterView(BaseModel):
    id: str
    name: str
    by_link: bool
    num_votes: int
    last_at: datetime | None


class VoteLinkView(BaseModel):
    """A link by which people without an account vote on this comparison, and see nothing else."""

    id: str
    url: str | None = Field(description="Shown once, when the link is made.")
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class NewVoteLink(BaseModel):
    model_config = ConfigDict(extra="forbid")

    days: int = Field(vote_links.DEFAULT_DAYS, ge=1, le=vote_links.MAX_DAYS, description="After so many days it ends.")


VOTE = {"left": {"summary": "The left answer is better", "value": {"place": 0, "choice": "left", "seconds": 4.2}}}
UNDO = {"last": {"summary": "The last of twelve", "value": {"num_votes": 12}}}
PREFERENCES = {"votes": {"summary": "What people prefer", "value": {"judge": "votes"}}}
LINK = {"week": {"summary": "For a week", "value": {"days": 7}}}


@router.get("/ballot", operation_id="get_ballot", summary="Get the next pair to vote on")
def get_ballot(session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str) -> BallotView:
    """Sides are drawn by chance for each voter; a reload gives the same ones."""
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    return show(votes.stand(session, comparison, kept, votes.identify(comparison, user.id)), kept)


@router.post("/votes", status_code=201, operation_id="cast_vote", summary="Vote")
def cast_vote(
    body: Annotated[NewVote, Body(openapi_examples=VOTE)], session: WriteSession, files: CurrentFiles, user: CurrentUser,
    comparison_id: str,
) -> BallotView:  # fmt: skip
    """Answers with the next ballot. The same vote sent again is one vote; another choice for the same place replaces it."""
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    voter = votes.enter(session, comparison, get_user_by_id(session, user.id))
    votes.cast(session, comparison, kept, voter, body.place, body.choice, body.seconds)
    return show(votes.stand(session, comparison, kept, voter.id), kept)


@router.post("/votes/undo", operation_id="undo_vote", summary="Take back the last vote")
def undo_vote(
    body: Annotated[UndoneVote, Body(openapi_examples=UNDO)], session: WriteSession, files: CurrentFiles, user: CurrentUser,
    comparison_id: str,
) -> BallotView:  # fmt: skip
    """Of one's own votes; answers with the ballot that is open again."""
    comparison = get_comparison(session, user.id, comparison_id)
    kept = get_computed(session, files, comparison, NOT_READY)
    voter = votes.enter(session, comparison, get_user_by_id(session, user.id))
    votes.undo(session, voter, body.num_votes)
    return show(votes.stand(session, comparison, kept, voter.id), kept)


@router.get(
    "/votes.jsonl", operation_id="download_votes", summary="Download the votes", response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}}},
)  # fmt: skip
def download_votes(session: ReadSession, files: CurrentFiles, user: CurrentUser, comparison_id: str) -> StreamingResponse:
    """One vote a line: prompt, the answers at the left and right with their models, choice, voter, seconds. Those with a better
    answer have it as `chosen`, the other as `rejected`, so that the file can be uploaded as a data set.
    """
    comparison = get_comparison(session, user.id, comparison_id)
    lines = exports.list_vote_lines(session, comparison, get_computed(session, files, comparison, NOT_READY))
    headers = {"content-disposition": f'attachment; filename="votes-{comparison.id}.jsonl"'}
    return StreamingResponse(encode(lines), media_type="application/jsonl", headers=headers)


@router.post(
    "/dataset", status_code=201, operation_id="create_preference_dataset", summary="Make a data set of votes or judgements"
)
async def create_preference_dataset(
    request: Request, body: Annotated[NewPreferences, Body(openapi_examples=PREFERENCES)], database: CurrentDatabase,
    files: CurrentFiles, user: CurrentUser, comparison_id: str,
) -> MadeDataset:  # fmt: skip
    """Of each prompt and pair of models the preferred answer as chosen and the other as rejected: ready to train on at once."""
    dataset_id = await make_preferences(request, database, files, user.id, comparison_id, body.judge, body.margin, body.name)
    return MadeDataset(id=dataset_id)


@router.get("/voters", operation_id="list_voters", summary="List who votes")
def list_all_voters(session: ReadSession, user: CurrentUser, comparison_id: str) -> list[VoterView]:
    """With how many votes each gave."""
    comparison = get_comparison(session, user.id, comparison_id)
    return [
        VoterView(
            id=row.voter.id, name=row.voter.name, by_link=row.voter.user_id is None, num_votes=row.num_votes, last_at=row.last_at
        )
        for row in list_voters(session, comparison.id)
    ]


@router.delete("/voters/{voter_id}", status_code=204, operation_id="delete_voter", summary="Remove a voter with the votes")
def delete_voter(session: WriteSession, user: CurrentUser, comparison_id: str, voter_id: str) -> None:
    """For votes that were not meant."""
    votes.remove_voter(session, get_changeable(session, Comparison, user.id, comparison_id), voter_id)


@router.post("/vote-links", status_code=201, operation_id="create_vote_link", summary="Make a vote link")
def create_vote_link(
    body: Annotated[NewVoteLink, Body(openapi_examples=LINK)], session: WriteSession, actor: CurrentActor,
    settings: CurrentSettings, comparison_id: str,
) -> VoteLinkView:  # fmt: skip
    """Whoever has the link can vote on this comparison, without an account, and see nothing else."""
    link, secret = vote_links.create_link(session, actor, get_changeable(session, Comparison, actor.id, comparison_id), body.days)
    return show_link(link, f"{settings.url}/vote/{secret}")


@router.get("/vote-links", operation_id="list_vote_links", summary="List vote links")
def list_vote_links(session: ReadSession, user: CurrentUser, comparison_id: str) -> list[VoteLinkView]:
    """Newest first, without their secrets."""
    return [show_link(link) for link in list_links(session, get_comparison(session, user.id, comparison_id).id)]


@router.delete("/vote-links/{link_id}", status_code=204, operation_id="revoke_vote_link", summary="Revoke a vote link")
def revoke_vote_link(session: WriteSession, actor: CurrentActor, comparison_id: str, link_id: str) -> None:
    """It ends for those too who came by it; their votes stay."""
    vote_links.revoke_link(session, actor, get_changeable(session, Comparison, actor.id, comparison_id), link_id)


def show(standing: votes.Standing, kept: Computed) -> BallotView:
    told = describe(standing, kept, "")
    shown = asdict(told["ballot"]) if told["ballot"] else {"messages": [], "left": "", "right": ""}
    place = standing.place if told["ballot"] else None
    return BallotView(place=place, num_votes=standing.num_votes, num_ballots=len(standing.ballots), **shown)


def show_link(link: VoteLink, url: str | None = None) -> VoteLinkView:
    return VoteLinkView(id=link.id, url=url, created_at=link.created_at, expires_at=link.expires_at, revoked_at=link.revoked_at)


def encode(lines: list[bytes]) -> Iterator[bytes]:
    yield from lines
