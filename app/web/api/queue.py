"""REST: the queue. In which order runs begin, and what can be done about it: pause, release, move, priority, another worker.

A run is steered by its owner and by admins.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.run import RunKind
from app.services import names, workers
from app.services import queue as service
from app.services.acts import Actor
from app.services.sharing import take
from app.store import queue
from app.store.database import now
from app.store.tables import Run
from app.store.workers import list_workers
from app.web.api.paging import Limit, Page, to_page
from app.web.api.runs import RunView, show
from app.web.api.sharing import ThingChange, change
from app.web.dependencies import CurrentActor, ReadSession, WriteSession

router = APIRouter(tags=["queue"])

MAX_POSITION = 2**31
AfterPosition = Annotated[int, Query(ge=0, le=MAX_POSITION, description="The position of the last run seen.")]


class QueuedView(BaseModel):
    """A queued run at its place."""

    position: int | None = Field(description="From 1, among the runs of all users; null for one that is paused.")
    id: str
    name: str
    kind: RunKind
    owner_id: str
    owner: str
    private: bool
    priority: int
    num_processes: int
    held_at: datetime | None
    wanted_worker: str | None
    avoided_worker: str | None
    queued_at: datetime
    waiting_for: str = Field(description="What it waits for, as a sentence; empty when it is merely not its turn.")


class MoveRequest(BaseModel):
    """Exactly one of both."""

    model_config = ConfigDict(extra="forbid")

    to: Literal["front", "end"] | None = Field(None, description="Among the owner's queued runs of the same priority.")
    before: str | None = Field(None, max_length=80, description="The id of the queued run to put it before.")


Tag = Annotated[str, Field(max_length=60)]


class RunChange(BaseModel):
    """Only what is named is changed; null takes a wish back."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=120)
    private: bool | None = Field(None, description="true: only its owner and admins see it; false: all members do.")
    tags: list[Tag] | None = Field(None, max_length=50, description="Instead of those it has.")
    notes: str | None = Field(None, max_length=4000, description="Instead of those it has.")
    priority: int | None = Field(None, description="-100 to 100; only admins raise it above 0.")
    wanted_worker: str | None = Field(None, max_length=120, description="The worker it is to run on; until it begins there.")
    avoided_worker: str | None = Field(None, max_length=120, description="The worker it is to stay off; until it is taken back.")


CHANGES = {
    "name": {"summary": "Another name", "value": {"name": "Kind help desk, second try"}},
    "marked": {"summary": "Tags and notes", "value": {"tags": ["baseline", "kind"], "notes": "Seed 3 without noise."}},
    "later": {"summary": "Let other runs go first", "value": {"priority": -10}},
    "there": {"summary": "Run it on this worker", "value": {"wanted_worker": "gpu-box-1"}},
    "not_there": {"summary": "Run it anywhere but there", "value": {"avoided_worker": "gpu-box-2"}},
    "anywhere": {"summary": "Take the wishes back", "value": {"wanted_worker": None, "avoided_worker": None}},
}
MOVES = {
    "front": {"summary": "First among one's own", "value": {"to": "front"}},
    "before": {"summary": "Before another run", "value": {"before": "run_01kb4y7v3m2q8d5n6c9t0r1x2z"}},
}


@router.get("/queue", operation_id="list_queue", summary="List the queued runs in the order in which they begin")
def list_queue(
    session: ReadSession, actor: CurrentActor, after: AfterPosition = 0, limit: Limit = 50, held: bool = False
) -> Page[QueuedView]:
    """Your queued runs, an admin's are all; positions count the runs of all users. With `held`, those that are paused instead.

    First the highest priority; then users take turns, who has fewest running first; then the order of queueing."""
    owner_id = None if actor.is_admin else actor.id
    if held:
        rows = queue.list_held(session, owner_id=owner_id, limit=limit)
    else:
        rows = queue.list_queue(session, owner_id=owner_id, after=after, limit=limit + 1)
    known, at = list_workers(session), now(session)

    def view(queued: queue.Queued) -> QueuedView:
        run = queued.run
        shown = {name: getattr(run, name) for name in QueuedView.model_fields if name not in ("position", "waiting_for")}
        return QueuedView(position=queued.position, waiting_for=workers.describe_wait(session, run, known, at), **shown)

    return to_page(rows, limit, view, lambda queued: str(queued.position))


@router.post("/runs/{run_id}/pause", status_code=202, operation_id="pause_run", summary="Pause a run")
def pause_run(session: WriteSession, actor: CurrentActor, run_id: str) -> RunView:
    """A queued run doesn't begin; a running one saves a checkpoint and goes back to the queue. 409 after its end."""
    return show(service.pause(session, actor, run_id))


@router.post("/runs/{run_id}/release", status_code=202, operation_id="release_run", summary="Release a paused run")
def release_run(session: WriteSession, actor: CurrentActor, run_id: str) -> RunView:
    """It goes on at its old place in the queue, from its newest good checkpoint. 409 after its end."""
    return show(service.release(session, actor, run_id))


@router.post("/runs/{run_id}/move", operation_id="move_run", summary="Move a queued run")
def move_run(
    session: WriteSession, actor: CurrentActor, run_id: str, body: Annotated[MoveRequest, Body(openapi_examples=MOVES)]
) -> RunView:
    """To the front or the end of one's own runs, or before another one. Runs of other users lose nothing by it. 409 when one of
    them is not queued any more, or their priorities differ."""
    if (body.to is None) == (body.before is None):
        raise InvalidInput.at("to", 'Say where to: either "to" (front or end) or "before" (the id of a run).')
    return show(service.move(session, actor, run_id, to=body.to or "", before=body.before or ""))


@router.patch(
    "/runs/{run_id}", operation_id="change_run", summary="Change a run: name, who sees it, tags, notes, priority, place"
)
def change_run(
    session: WriteSession, actor: CurrentActor, run_id: str, body: Annotated[RunChange, Body(openapi_examples=CHANGES)]
) -> RunView:
    """A run that runs on another worker than it may now saves a checkpoint and goes back to the queue first. 409 after its
    end, or when no other worker is alive than the one to stay off."""
    given = body.model_fields_set
    if body.wanted_worker is not None and body.wanted_worker == body.avoided_worker:
        raise InvalidInput.at("avoided_worker", "A run can't be sent to a worker and kept off it at once: give one of the two.")
    describe(session, actor, run_id, body)
    if body.priority is not None:
        run = service.set_priority(session, actor, run_id, body.priority)
    else:
        run = service.find_steered(session, actor, run_id)
    if "wanted_worker" in given:
        run = service.send_to(session, actor, run_id, body.wanted_worker)
    if "avoided_worker" in given:
        run = service.keep_off(session, actor, run_id, body.avoided_worker)
    return show(run)


def describe(session: Session, actor: Actor, run_id: str, body: RunChange) -> None:
    """Change what is said of a run, and who sees it."""
    if body.name is not None or body.private is not None:
        change(session, actor.id, Run, run_id, ThingChange(name=body.name, private=body.private))
    if body.tags is None and body.notes is None:
        return
    run = take(session, actor.id, Run, run_id, "described")
    if body.tags is not None:
        names.tag(run, body.tags)
    if body.notes is not None:
        names.note(run, body.notes)
