"""Home: how to begin where nothing was run yet; else what runs, what needs somebody, and what came out last."""

from dataclasses import dataclass
from datetime import timedelta

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.errors import Conflict
from app.services import accounts
from app.store import queue, workers
from app.store.database import now
from app.store.files.disk import Storage
from app.store.overview.standing import (
    Beginnings,
    FinishedRun,
    Living,
    Need,
    find_beginnings,
    list_living,
    list_needs,
    list_results,
)
from app.store.sharing import find_visible
from app.store.tables import Run, User
from app.web.dependencies import CurrentActor, CurrentUser, ReadSession, WriteSession
from app.web.pages.demonstration import Demonstration, MakingState
from app.web.rendering.environment import Context, go_to, render, render_part

router = APIRouter()

MOST_NEEDS = 8
FEW_OTHERS = 3
TOKEN_HOURS = 3  # longer than it takes on a slow and busy machine


@dataclass(frozen=True)
class Fleet:
    """All workers in a line."""

    num_alive: int
    num_slots: int
    num_used: int
    num_waiting: int
    others: list[Run | None]  # a few of others' runs that hold slots; None: private to another
    num_others: int


@dataclass(frozen=True, kw_only=True)
class HomePage(Context):
    template = "home/home.html"
    part = "home/_standing.html"

    beginnings: Beginnings
    living: list[Living]
    needs: list[Need]
    num_further: int  # needs that are not shown
    results: list[FinishedRun]
    fleet: Fleet
    storage: Storage
    demonstration: MakingState
    obstacle: str  # why the demonstration can't be begun here


def read_home(request: Request, session: Session, owner_id: str) -> HomePage:
    demonstration: Demonstration = request.app.state.demonstration
    living, results = list_living(session, owner_id), list_results(session, owner_id)
    needs = list_needs(session, owner_id, [*(one.run for one in living), *(one.run for one in results)])
    return HomePage(
        beginnings=find_beginnings(session, owner_id),
        living=living,
        needs=needs[:MOST_NEEDS],
        num_further=len(needs[MOST_NEEDS:]),
        results=results,
        fleet=read_fleet(session, owner_id),
        storage=request.app.state.database.disk.look(),
        demonstration=demonstration.look(),
        obstacle=demonstration.obstacle,
    )


def read_fleet(session: Session, user_id: str) -> Fleet:
    """Return how all workers stand, and whose work holds their slots where it isn't the user's own."""
    there = [row for row in workers.describe_workers(session) if row.standing != "gone"]
    slots, used = sum(row.worker.slots for row in there), sum(row.num_used for row in there)
    others = [one.run for row in there for one in row.running if one.run.owner_id != user_id]
    shown = [find_visible(session, Run, user_id, run.id) for run in others[:FEW_OTHERS]]
    return Fleet(len(there), slots, used, queue.count_queue(session), shown, len(others))


@router.get("/")
def show_home(request: Request, session: ReadSession, user: CurrentUser) -> Response:
    """Home; an address of the time when the list of runs was here leads to it."""
    if {"state", "after"} & set(request.query_params):
        return RedirectResponse(f"/runs?{request.url.query}", status_code=308)
    return render(request, read_home(request, session, user.id))


@router.get("/home")
def show_standing(request: Request, session: ReadSession, user: CurrentUser) -> HTMLResponse:
    """The moving part, for the page to take in."""
    return render_part(request, read_home(request, session, user.id))


@router.post("/demonstration")
def begin_demonstration(request: Request, session: WriteSession, actor: CurrentActor) -> Response:
    """Home, where its progress shows; the token by which it speaks for the user ends by itself. 409 where it can't be made."""
    demonstration: Demonstration = request.app.state.demonstration
    if demonstration.obstacle:
        raise Conflict(demonstration.obstacle)
    until = now(session) + timedelta(hours=TOKEN_HOURS)
    user = session.get_one(User, actor.id)
    demonstration.begin(accounts.create_token(session, user, "demonstration", actor=actor, until=until))
    return go_to(request, "/")
