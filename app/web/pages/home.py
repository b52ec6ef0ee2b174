"""Home: how to begin where nothing was run yet; else what runs, what needs somebody, and what came out last."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.store import queue, workers
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
from app.web.dependencies import CurrentDatabase, CurrentUser, ReadSession
from app.web.rendering.environment import Context, render, render_part

router = APIRouter()

MOST_NEEDS = 8


@dataclass(frozen=True)
class Fleet:
    """All workers in a line."""

    num_alive: int
    num_slots: int
    num_used: int
    num_waiting: int


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


def read_home(session: Session, owner_id: str, storage: Storage) -> HomePage:
    living, results = list_living(session, owner_id), list_results(session, owner_id)
    needs = list_needs(session, owner_id, [*(one.run for one in living), *(one.run for one in results)])
    return HomePage(
        beginnings=find_beginnings(session, owner_id),
        living=living,
        needs=needs[:MOST_NEEDS],
        num_further=len(needs[MOST_NEEDS:]),
        results=results,
        fleet=read_fleet(session),
        storage=storage,
    )


def read_fleet(session: Session) -> Fleet:
    there = [row for row in workers.describe_workers(session) if row.standing != "gone"]
    slots, used = sum(row.worker.slots for row in there), sum(row.num_used for row in there)
    return Fleet(len(there), slots, used, queue.count_queue(session))


@router.get("/")
def show_home(request: Request, session: ReadSession, user: CurrentUser, database: CurrentDatabase) -> Response:
    """Home; an address of the time when the list of runs was here leads to it."""
    if {"state", "after"} & set(request.query_params):
        return RedirectResponse(f"/runs?{request.url.query}", status_code=308)
    return render(request, read_home(session, user.id, database.disk.look()))


@router.get("/home")
def show_standing(request: Request, session: ReadSession, user: CurrentUser, database: CurrentDatabase) -> HTMLResponse:
    """The moving part, for the page to take in."""
    return render_part(request, read_home(session, user.id, database.disk.look()))
