"""REST: workers. What they have and run; an admin pauses, resumes and forgets them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.services import workers as service
from app.services.acts import Actor
from app.store import workers
from app.store.sharing import find_visible
from app.store.tables import Run
from app.store.workers import WorkerRow
from app.web.api.paging import Page
from app.web.dependencies import CurrentActor, ReadSession, WriteSession

router = APIRouter(prefix="/workers", tags=["workers"])


class RunningView(BaseModel):
    """A run in the hands of a worker. Whose it is and what it is called is for its owner and for admins."""

    run_id: str | None
    name: str | None
    attempt: int
    slots: list[int] = Field(description="The worker's slots that it takes, one for each process; empty before the next beat.")
    spool_lag_seconds: float | None = Field(description="How far the journal is behind what its runner wrote.")


class WorkerView(BaseModel):
    id: str = Field(examples=["gpu-box-1"])
    hostname: str
    standing: Literal["alive", "paused", "gone"] = Field(description="Paused: it finishes what it runs and begins nothing.")
    devices: list[dict[str, Any]] = Field(description="Its GPUs: index, name, memory_bytes and what else it knows of them.")
    num_slots: int = Field(description="How many processes may train at once.")
    num_used: int = Field(description="How many do.")
    running: list[RunningView]
    off: dict[str, str] = Field(
        description="Quick ways to train that its machine does not allow, and why: compile (torch.compile), flex "
        "(FlexAttention), nf4 (4-bit weights).",
        examples=[{"flex": "it needs an NVIDIA GPU."}],
    )
    version: str
    started_at: datetime
    beat_at: datetime = Field(description="When it was last heard of.")
    paused_at: datetime | None


class WorkerChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    paused: bool
    give_back: bool = Field(False, description="With paused: its runs save and go back to the queue, for other workers.")


CHANGES = {
    "pause": {"summary": "Begin nothing more", "value": {"paused": True}},
    "drain": {"summary": "Give its runs to other workers too", "value": {"paused": True, "give_back": True}},
    "resume": {"summary": "Begin runs again", "value": {"paused": False}},
}


def show(session: Session, row: WorkerRow, actor: Actor) -> WorkerView:
    worker = row.worker
    running = []
    for one in row.running:
        may_see = find_visible(session, Run, actor.id, one.run.id) is not None
        running.append(RunningView(
            run_id=one.run.id if may_see else None, name=one.run.name if may_see else None, attempt=one.run.attempt,
            slots=one.slots, spool_lag_seconds=one.spool_lag_seconds,
        ))  # fmt: skip
    return WorkerView(
        id=worker.id, hostname=worker.hostname, standing=row.standing, devices=worker.devices, num_slots=worker.slots,
        num_used=row.num_used, running=running, off=worker.load.get("off", {}), version=worker.version,
        started_at=worker.started_at, beat_at=worker.beat_at, paused_at=worker.paused_at,
    )  # fmt: skip


def show_one(session: Session, actor: Actor, worker_id: str) -> WorkerView:
    return show(session, workers.describe_worker(session, service.get_worker(session, worker_id)), actor)


@router.get("", operation_id="list_workers", summary="List workers")
def list_workers(session: ReadSession, actor: CurrentActor) -> Page[WorkerView]:
    """All that were heard of within a day, by name, on one page."""
    return Page(items=[show(session, row, actor) for row in workers.describe_workers(session)], next=None)


@router.get("/{worker_id}", operation_id="get_worker", summary="Get a worker")
def get_worker(session: ReadSession, actor: CurrentActor, worker_id: str) -> WorkerView:
    """One worker with its devices and what it runs."""
    return show_one(session, actor, worker_id)


@router.patch("/{worker_id}", operation_id="change_worker", summary="Pause or resume a worker")
def change_worker(
    session: WriteSession, actor: CurrentActor, worker_id: str, body: Annotated[WorkerChange, Body(openapi_examples=CHANGES)]
) -> WorkerView:
    """For admins. A paused worker finishes what it runs, or gives it back, and begins nothing until it is resumed."""
    if body.paused:
        service.pause(session, actor, worker_id, give_back=body.give_back)
    else:
        service.resume(session, actor, worker_id)
    return show_one(session, actor, worker_id)


@router.delete("/{worker_id}", status_code=204, operation_id="forget_worker", summary="Forget a worker that is gone")
def forget_worker(session: WriteSession, actor: CurrentActor, worker_id: str) -> None:
    """For admins: takes it off the list, and its pause with it. 409 while it is alive."""
    service.forget(session, actor, worker_id)
