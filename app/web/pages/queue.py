"""The queue: the runs that wait, in the order in which they begin, with what can be done about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.services import queue as service
from app.services import workers
from app.services.acts import Actor
from app.store import checkpoints, queue, runs
from app.store.database import now
from app.store.tables import Run, User
from app.store.workers import is_alive, list_workers
from app.web.dependencies import CurrentActor, ReadSession, WriteSession
from app.web.errors import carry_out
from app.web.rendering.environment import Context, render, render_part

router = APIRouter()

PAGE_SIZE = 30
After = Annotated[int, Query(ge=0, le=2**31)]


@dataclass(frozen=True)
class QueueRow:
    """A queued run; `before` and `behind` are its neighbours among the runs it may change places with, empty at an end."""

    run: Run
    position: int | None
    owner: str  # empty: one's own
    waiting_for: str
    before: str
    behind: str
    saved_step: int  # of the newest checkpoint; 0: it begins at the beginning


@dataclass(frozen=True, kw_only=True)
class QueuePage(Context):
    template = "queue/list.html"
    part = "queue/_rows.html"

    rows: list[QueueRow]
    held: list[QueueRow]
    num_waiting: int
    after: int
    next_after: int
    sees_all: bool
    has_worker: bool
    error: str


def read_queue(session: Session, actor: Actor, after: int, error: str = "") -> QueuePage:
    owner_id = None if actor.is_admin else actor.id
    found = queue.list_queue(session, owner_id=owner_id, after=after, limit=PAGE_SIZE + 1)
    shown, held = found[:PAGE_SIZE], queue.list_held(session, owner_id=owner_id, limit=PAGE_SIZE)
    known, at = list_workers(session), now(session)
    saved = checkpoints.newest_steps(session, [queued.run.id for queued in [*shown, *held]])
    owners = runs.names_of(session, User, {queued.run.owner_id for queued in [*shown, *held]})

    def row(queued: queue.Queued, peers: list[queue.Queued]) -> QueueRow:
        run = queued.run
        same = [peer.run.id for peer in peers if (peer.run.owner_id, peer.run.priority) == (run.owner_id, run.priority)]
        at_index = same.index(run.id) if run.id in same else 0
        return QueueRow(
            run=run,
            position=queued.position,
            owner="" if run.owner_id == actor.id else owners.get(run.owner_id, ""),
            waiting_for=workers.describe_wait(session, run, known, at),
            before=same[at_index - 1] if at_index > 0 else "",
            behind=same[at_index + 1] if at_index + 1 < len(same) else "",
            saved_step=saved.get(run.id, 0),
        )

    return QueuePage(
        rows=[row(queued, shown) for queued in shown],
        held=[row(queued, []) for queued in held],
        num_waiting=queue.count_queue(session),
        after=after,
        next_after=(shown[-1].position or 0) if len(found) > PAGE_SIZE else 0,
        sees_all=actor.is_admin,
        has_worker=any(is_alive(worker, at) for worker in known),
        error=error,
    )


@router.get("/queue")
def show_queue(request: Request, session: ReadSession, actor: CurrentActor, after: After = 0) -> HTMLResponse:
    return render(request, read_queue(session, actor, after))


@router.get("/queue/rows")
def show_rows(request: Request, session: ReadSession, actor: CurrentActor, after: After = 0) -> HTMLResponse:
    """The moving part, for the page to take in."""
    return render_part(request, read_queue(session, actor, after))


def answer(request: Request, session: Session, actor: Actor, after: int, action: Callable[[], object]) -> Response:
    """Carry out the action; htmx gets the queue as it then is, with the sentence of a refusal in it, others the whole page."""
    error, status = carry_out(request, session, action)
    if not request.headers.get("hx-request"):
        return RedirectResponse("/queue", status_code=303)
    return render_part(request, read_queue(session, actor, after, error), status=status)


@router.post("/queue/{run_id}/pause")
def pause_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str, after: After = 0) -> Response:
    return answer(request, session, actor, after, lambda: service.pause(session, actor, run_id))


@router.post("/queue/{run_id}/release")
def release_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str, after: After = 0) -> Response:
    return answer(request, session, actor, after, lambda: service.release(session, actor, run_id))


@router.post("/queue/{run_id}/move")
def move_run(
    request: Request, session: WriteSession, actor: CurrentActor, run_id: str, after: After = 0,
    to: Annotated[str, Form(max_length=10)] = "", before: Annotated[str, Form(max_length=80)] = "",
) -> Response:  # fmt: skip
    return answer(request, session, actor, after, lambda: service.move(session, actor, run_id, to=to, before=before))


@router.post("/queue/{run_id}/priority")
def prioritise_run(
    request: Request, session: WriteSession, actor: CurrentActor, run_id: str,
    priority: Annotated[int, Form(ge=-(2**31), lt=2**31)], after: After = 0,
) -> Response:  # fmt: skip
    return answer(request, session, actor, after, lambda: service.set_priority(session, actor, run_id, priority))
