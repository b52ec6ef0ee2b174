"""The list of runs."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.domain.run import RunState
from app.store import runs
from app.store import runs as store
from app.store.runs import RunRow
from app.store.tables import Run
from app.web.dependencies import CurrentUser, ReadSession
from app.web.rendering.environment import Context, render

router = APIRouter()

PAGE_SIZE = 30


@dataclass(frozen=True, kw_only=True)
class RunsPage(Context):
    template = "runs/list.html"

    rows: list[RunRow]
    counts: dict[str, int]
    state: str
    states: list[str]
    after: str
    next_after: str
    active_ids: list[str]
    num_datasets: int


@dataclass(frozen=True, kw_only=True)
class RunRows(Context):
    template = "runs/_rows.html"

    rows: list[RunRow]
    active_ids: list[str]


After = Annotated[str, Query(max_length=60)]


@router.get("/")
@router.get("/runs")
def list_runs(request: Request, session: ReadSession, user: CurrentUser, state: str = "", after: After = "") -> HTMLResponse:
    wanted = state if state in list(RunState) else ""
    found = store.list_runs(session, user.id, state=wanted or None, after=after or None, limit=PAGE_SIZE + 1)
    rows = runs.describe_runs(session, found[:PAGE_SIZE])
    context = RunsPage(
        rows=rows,
        counts=runs.count_runs(session, user.id),
        state=wanted,
        states=[str(one) for one in RunState],
        after=after,
        next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "",
        active_ids=active(rows),
        num_datasets=runs.count_datasets(session, user.id),
    )
    return render(request, context)


@router.get("/runs/rows")
def refresh_rows(
    request: Request, session: ReadSession, user: CurrentUser, ids: Annotated[str, Query(max_length=4000)] = ""
) -> HTMLResponse:
    """The moving cells of these runs, for the list to take in."""
    found = [run for id in ids.split(",")[:PAGE_SIZE] if id and (run := session.get(Run, id)) and run.owner_id == user.id]
    rows = runs.describe_runs(session, found)
    return render(request, RunRows(rows=rows, active_ids=active(rows)))


def active(rows: list[RunRow]) -> list[str]:
    return [row.run.id for row in rows if not RunState(row.run.state).final]
