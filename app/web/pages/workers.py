"""The workers: who is alive, what each has, what runs where; admins pause, resume and forget them."""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.jobs import FAST_PATHS
from app.services import workers as service
from app.services.acts import Actor
from app.store import queue, workers
from app.store.sharing import find_visible
from app.store.tables import Run
from app.store.workers import WorkerRow
from app.web.dependencies import CurrentActor, ReadSession, WriteSession
from app.web.rendering.environment import Context, render, render_part

router = APIRouter()


@dataclass(frozen=True)
class DeviceRow:
    """A GPU as the page shows it; None where nothing is known."""

    name: str
    memory_bytes: int | None
    used_bytes: float | None
    utilization: float | None  # 0 to 1
    temperature_celsius: float | None


@dataclass(frozen=True)
class RunningLine:
    """What the page says of a run on a worker; without `run` it is another user's."""

    run: Run | None
    attempt: int
    slots: str
    lag_seconds: float | None
    is_mine: bool


@dataclass(frozen=True)
class WorkerCard:
    row: WorkerRow
    devices: list[DeviceRow]
    running: list[RunningLine]

    @property
    def off(self) -> list[tuple[str, str]]:
        """The quick ways to train that its machine does not allow, and why."""
        told = self.row.worker.load.get("off", {})
        return [(name, told[key]) for key, name in FAST_PATHS.items() if key in told]

    @property
    def key(self) -> str:
        """For ids within the page: of the worker's name, which may hold anything, so that they stay with the worker."""
        return hashlib.sha256(self.row.worker.id.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class WorkersPage(Context):
    template = "workers/list.html"
    part = "workers/_cards.html"

    cards: list[WorkerCard]
    num_alive: int
    num_slots: int
    num_used: int
    num_waiting: int
    may_steer: bool


def read_workers(session: Session, actor: Actor) -> WorkersPage:
    rows = workers.describe_workers(session)
    there = [row for row in rows if row.standing != "gone"]
    return WorkersPage(
        cards=[
            WorkerCard(row, [device_of(running) for running in row.worker.devices], running_of(session, row, actor))
            for row in rows
        ],
        num_alive=len(there),
        num_slots=sum(row.worker.slots for row in there),
        num_used=sum(row.num_used for row in there),
        num_waiting=queue.count_queue(session),
        may_steer=actor.is_admin,
    )


def device_of(told: dict[str, Any]) -> DeviceRow:
    """Return what the worker's beat said of a device."""
    percent = told.get("utilization_percent")
    return DeviceRow(
        name=str(told.get("name", "device")),
        memory_bytes=told.get("memory_bytes") or None,
        used_bytes=told.get("memory_used_bytes"),
        utilization=percent / 100 if percent is not None else None,
        temperature_celsius=told.get("temperature_celsius"),
    )


def running_of(session: Session, row: WorkerRow, actor: Actor) -> list[RunningLine]:
    lines = []
    for running in row.running:
        is_mine = running.run.owner_id == actor.id
        slots = ", ".join(str(slot) for slot in running.slots)
        shown = find_visible(session, Run, actor.id, running.run.id)
        lines.append(RunningLine(shown, running.run.attempt, slots, running.spool_lag_seconds, is_mine))
    return lines


@router.get("/workers")
def show_workers(request: Request, session: ReadSession, actor: CurrentActor) -> HTMLResponse:
    return render(request, read_workers(session, actor))


@router.get("/workers/cards")
def show_cards(request: Request, session: ReadSession, actor: CurrentActor) -> HTMLResponse:
    """The moving part, for the page to take in."""
    return render_part(request, read_workers(session, actor))


def answer(request: Request, session: Session, actor: Actor) -> Response:
    """htmx gets the cards as they are now, others the whole page."""
    if not request.headers.get("hx-request"):
        return RedirectResponse("/workers", status_code=303)
    session.flush()
    return render_part(request, read_workers(session, actor))


@router.post("/workers/{worker_id}/pause")
def pause_worker(
    request: Request, session: WriteSession, actor: CurrentActor, worker_id: str, give_back: Annotated[bool, Form()] = False
) -> Response:
    service.pause(session, actor, worker_id, give_back=give_back)
    return answer(request, session, actor)


@router.post("/workers/{worker_id}/resume")
def resume_worker(request: Request, session: WriteSession, actor: CurrentActor, worker_id: str) -> Response:
    service.resume(session, actor, worker_id)
    return answer(request, session, actor)


@router.post("/workers/{worker_id}/forget")
def forget_worker(request: Request, session: WriteSession, actor: CurrentActor, worker_id: str) -> Response:
    service.forget(session, actor, worker_id)
    return answer(request, session, actor)
