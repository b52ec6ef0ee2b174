"""Steering on the page of one run: its place in the queue, pause and release, priority, and where it is to run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.run import RunState
from app.services import queue as service
from app.services import workers
from app.services.acts import Actor
from app.store import queue
from app.store import runs as store
from app.store.database import now
from app.store.tables import Run
from app.store.workers import WorkerRow, describe_workers
from app.web.dependencies import CurrentActor, CurrentUser, ReadSession, WriteSession
from app.web.errors import carry_out
from app.web.rendering.environment import Context, render

router = APIRouter()

ANYWHERE, ONTO, OFF = "anywhere", "onto:", "off:"
Priority = Annotated[int, Form(ge=-(2**31), lt=2**31)]
Where = Annotated[str, Form(max_length=130)]


@dataclass(frozen=True)
class Steering:
    """What is known of a run's place, and what can be chosen. `where` is the chosen one of `places`: value and words."""

    run_id: str
    is_final: bool
    is_running: bool
    is_held: bool
    is_leaving: bool
    position: int | None
    num_waiting: int
    priority: int
    waiting_for: str
    worker: str
    where: str
    places: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class SteeringPart(Context):
    template = "runs/_steering.html"

    steering: Steering
    error: str
    oob: bool = True  # the line of the fold and the button of the page's head come along


def steering_of(session: Session, run: Run) -> Steering:
    known = describe_workers(session) if not RunState(run.state).final else []
    wish = f"{ONTO}{run.wanted_worker}" if run.wanted_worker else f"{OFF}{run.avoided_worker}" if run.avoided_worker else ANYWHERE
    return Steering(
        run_id=run.id,
        is_final=RunState(run.state).final,
        is_running=run.state == RunState.RUNNING,
        is_held=run.held_at is not None,
        is_leaving=run.release_requested_at is not None,
        position=queue.find_position(session, run),
        num_waiting=queue.count_queue(session) if run.state == RunState.QUEUED else 0,
        priority=run.priority,
        waiting_for=workers.describe_wait(session, run, [row.worker for row in known], now(session)),
        worker=run.worker_id or "no worker yet",
        where=wish,
        places=list_places(known, wish),
    )


def list_places(known: list[WorkerRow], wish: str) -> list[tuple[str, str]]:
    """Return where a run may be sent: onto any worker that is there or was wished for, or off it."""
    shown = [(row.worker.id, row.standing) for row in known if row.standing != "gone" or wish.endswith(f":{row.worker.id}")]
    names = {worker_id: worker_id if standing == "alive" else f"{worker_id} ({standing})" for worker_id, standing in shown}
    _, colon, wished = wish.partition(":")
    if colon and wished not in names:
        names[wished] = f"{wished} (gone)"
    onto = [(f"{ONTO}{worker_id}", f"on {name}") for worker_id, name in names.items()]
    off = [(f"{OFF}{worker_id}", f"anywhere but on {name}") for worker_id, name in names.items()]
    return [(ANYWHERE, "on any worker"), *onto, *off]


@router.get("/runs/{run_id}/steering")
def show_steering(request: Request, session: ReadSession, user: CurrentUser, run_id: str) -> HTMLResponse:
    """The card, for the page to take in while the run goes on."""
    run = store.get_run(session, user.id, run_id)
    return render(request, SteeringPart(steering=steering_of(session, run), error=""))


def answer(request: Request, session: Session, actor: Actor, run_id: str, action: Callable[[], object]) -> Response:
    """Carry out the action; htmx gets the card as it then is, with the sentence of a refusal in it, others the whole page."""
    error, status = carry_out(request, session, action)
    if not request.headers.get("hx-request"):
        return RedirectResponse(f"/runs/{run_id}", status_code=303)
    run = store.get_run(session, actor.id, run_id)
    part = SteeringPart(steering=steering_of(session, run), error=error)
    return render(request, part, status=status)


@router.post("/runs/{run_id}/pause")
def pause_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str) -> Response:
    return answer(request, session, actor, run_id, lambda: service.pause(session, actor, run_id))


@router.post("/runs/{run_id}/release")
def release_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str) -> Response:
    return answer(request, session, actor, run_id, lambda: service.release(session, actor, run_id))


@router.post("/runs/{run_id}/move")
def move_run(
    request: Request, session: WriteSession, actor: CurrentActor, run_id: str, to: Annotated[str, Form(max_length=10)]
) -> Response:
    return answer(request, session, actor, run_id, lambda: service.move(session, actor, run_id, to=to))


@router.post("/runs/{run_id}/priority")
def prioritise_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str, priority: Priority) -> Response:
    return answer(request, session, actor, run_id, lambda: service.set_priority(session, actor, run_id, priority))


@router.post("/runs/{run_id}/where")
def place_run(request: Request, session: WriteSession, actor: CurrentActor, run_id: str, where: Where) -> Response:
    """Onto a worker, off one, or anywhere again: one wish at a time."""

    def place() -> None:
        kind, _, worker_id = where.partition(":")
        onto, off = worker_id if f"{kind}:" == ONTO else None, worker_id if f"{kind}:" == OFF else None
        service.send_to(session, actor, run_id, onto)
        service.keep_off(session, actor, run_id, off)

    return answer(request, session, actor, run_id, place)
