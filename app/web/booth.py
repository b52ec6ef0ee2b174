"""Voting by a link, without an account: who has the link gives a name, then sees the ballots of one comparison and nothing else.

/vote/SECRET is the link; it leads to /vote/booth/LINK_ID, where a cookie for that path alone tells one voter from another.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.comparing.ballot import VoteChoice
from app.domain.errors import Conflict, InvalidInput, Unauthenticated
from app.services.comparing import vote_links, votes
from app.services.comparing.computing import get_computed
from app.services.comparing.vote_links import Booth
from app.store.comparing.computed import Computed
from app.store.database import Database
from app.store.files.files import Files
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentSettings, address_of, read_apart, write_apart
from app.web.rendering.ballots import BallotPart, BoothPage, describe
from app.web.rendering.environment import Context, render
from app.web.security import VOTER_COOKIE, FailedTries

router = APIRouter(include_in_schema=False)

DAY_SECONDS = 86_400
NOTHING_TO_JUDGE = "There is nothing to vote on yet: the answers are still being made. Come back later with the same link."


@dataclass(frozen=True, kw_only=True)
class JoinPage(Context):
    template = "votes/join.html"

    secret: str  # of an open link; empty: there is nothing to join
    detail: str  # what is wrong; empty at first


@router.get("/vote/{secret}")
async def show_link(request: Request, secret: str, database: CurrentDatabase) -> Response:
    """A page that asks for a name: whoever only looks at a link leaves no voter behind."""
    if not await read_apart(request, is_open, database, secret):
        return refuse(request)
    return render(request, JoinPage(secret=secret, detail=""))


@router.post("/vote/{secret}")
async def join(
    request: Request, secret: str, database: CurrentDatabase, settings: CurrentSettings,
    name: Annotated[str, Form(max_length=400)] = "",
) -> Response:  # fmt: skip
    """Makes a voter, whose browser alone can vote in that name."""
    if not await read_apart(request, is_open, database, secret):
        return refuse(request)
    try:
        link_id, own = await write_apart(request, make_voter, database, secret, name)
    except (InvalidInput, Conflict) as error:
        return render(request, JoinPage(secret=secret, detail=error.detail), status=error.status)
    place = f"/vote/booth/{link_id}"
    response = RedirectResponse(place, status_code=303)
    response.set_cookie(
        VOTER_COOKIE, own, max_age=vote_links.MAX_DAYS * DAY_SECONDS, httponly=True, samesite="lax",
        secure=settings.url.startswith("https://"), path=place,
    )  # fmt: skip
    return response


@router.get("/vote/booth/{link_id}")
async def show_booth(request: Request, link_id: str, database: CurrentDatabase, files: CurrentFiles) -> Response:
    try:
        context = await read_apart(request, look, database, files, secret_of(request), link_id)
    except Unauthenticated:
        return refuse(request)
    return render(request, BoothPage(**context))


@router.post("/vote/booth/{link_id}")
async def vote(
    request: Request, link_id: str, database: CurrentDatabase, files: CurrentFiles, place: Annotated[int, Form(ge=0, le=10**6)],
    choice: Annotated[VoteChoice, Form()], seconds: Annotated[float, Form(ge=0, allow_inf_nan=False)] = 0.0,
) -> Response:  # fmt: skip
    """Writes the vote, then shows the next ballot; the same vote sent again changes nothing."""
    return await change(request, database, files, link_id, place=place, choice=choice, seconds=seconds)


@router.post("/vote/booth/{link_id}/undo")
async def undo(
    request: Request,
    link_id: str,
    database: CurrentDatabase,
    files: CurrentFiles,
    num_votes: Annotated[int, Form(ge=0, le=10**6)],
) -> Response:
    """Takes back the last of so many votes, then shows its ballot again."""
    return await change(request, database, files, link_id, num_votes=num_votes)


async def change(request: Request, database: Database, files: Files, link_id: str, **change: Any) -> Response:
    secret = secret_of(request)
    try:
        await read_apart(
            request, look, database, files, secret, link_id
        )  # what there is to compute is computed before the writing
        context = await write_apart(request, write, database, files, secret, link_id, **change)
    except Unauthenticated:
        return refuse(request)
    if not request.headers.get("hx-request"):
        return RedirectResponse(f"/vote/booth/{link_id}", status_code=303)
    context.pop("voter")
    return render(request, BallotPart(**context))


def secret_of(request: Request) -> str:
    return request.cookies.get(VOTER_COOKIE, "")


def is_open(database: Database, secret: str) -> bool:
    with database.reading() as session:
        return vote_links.find_open_link(session, secret) is not None


def make_voter(database: Database, secret: str, name: str) -> tuple[str, str]:
    with database.writing() as session:
        link, own = vote_links.join(session, secret, name)
        return link.id, own


def look(database: Database, files: Files, secret: str, link_id: str) -> dict[str, Any]:
    """Return where the voter stands. Raises Unauthenticated, Conflict."""
    with database.reading() as session:
        booth = vote_links.authenticate_voter(session, secret, link_id)
        return stand(session, booth, get_computed(session, files, booth.comparison, NOTHING_TO_JUDGE))


def write(
    database: Database, files: Files, secret: str, link_id: str, *, place: int = 0, choice: VoteChoice | None = None,
    seconds: float = 0.0, num_votes: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Cast a vote, or take back the last where there is no choice; returns where the voter stands then."""
    with database.writing() as session:
        booth = vote_links.authenticate_voter(session, secret, link_id)
        kept = get_computed(session, files, booth.comparison, NOTHING_TO_JUDGE)
        if choice is None:
            votes.undo(session, booth.voter, num_votes)
        else:
            votes.cast(session, booth.comparison, kept, booth.voter, place, choice, seconds)
        return stand(session, booth, kept)


def stand(session: Session, booth: Booth, kept: Computed) -> dict[str, Any]:
    standing = votes.stand(session, booth.comparison, kept, booth.voter.id)
    return {**describe(standing, kept, f"/vote/booth/{booth.voter.link_id}"), "voter": booth.voter.name}


def refuse(request: Request) -> Response:
    """Return the page that says that a link leads nowhere. Raises TooManyRequests for who tries many."""
    tries: FailedTries = request.app.state.failed_tries
    tries.note(address_of(request))
    return render(request, JoinPage(secret="", detail=vote_links.ENDED), status=401)
