"""What can be done with workers: pause, resume, forget; and why a queued run waits. Nothing here commits.

A paused worker finishes what it runs and begins nothing. The pause is the worker's row's: beats leave it as it is, and a worker
with a name of its own (STUDIO_WORKER_NAME) finds it again after a restart.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Forbidden, NotFound
from app.domain.events import LogWritten
from app.domain.run import RunState
from app.services import acts
from app.services.acts import Actor
from app.services.runs import hint
from app.store import journal, runs
from app.store.database import now
from app.store.files.disk import DiskGauge
from app.store.tables import Run, Worker
from app.store.workers import count_places, is_alive


def get_worker(session: Session, worker_id: str) -> Worker:
    """Return the worker. Raises NotFound."""
    worker = session.get(Worker, worker_id, populate_existing=True)
    if worker is None:
        raise NotFound(f"There is no worker {worker_id!r}; one that is not heard of for a day is forgotten.")
    return worker


def pause(session: Session, actor: Actor, worker_id: str, *, give_back: bool = False) -> Worker:
    """Let the worker begin nothing more; with `give_back` its runs save and go back to the queue, for other workers.

    Pausing twice is pausing once. Raises Forbidden for who is no admin, NotFound.
    """
    worker = _steer(session, actor, worker_id, "pause")
    _note(session, actor, f"{worker_id} was paused{' and gives its runs back' if give_back else ''}.")
    worker.paused_at = worker.paused_at or now(session)
    for known in runs.list_running(session, worker_id) if give_back else ():
        run = runs.lock_run(session, known.id)
        if (run.state, run.worker_id, run.release_requested_at) == (RunState.RUNNING, worker_id, None):
            run.release_requested_at = now(session)
            journal.append(session, run, [LogWritten(level="info", text=f"Worker {worker_id} was paused and gives it back.")])
            hint(session, run.id)
    return worker


def resume(session: Session, actor: Actor, worker_id: str) -> Worker:
    """Let a paused worker begin runs again. Raises Forbidden for who is no admin, NotFound."""
    worker = _steer(session, actor, worker_id, "resume")
    if worker.paused_at is not None:
        worker.paused_at = None
        _note(session, actor, f"{worker_id} was resumed.")
        hint(session, worker_id)
    return worker


def forget(session: Session, actor: Actor, worker_id: str) -> None:
    """Take a worker that is gone off the list. Raises Forbidden for who is no admin, NotFound, Conflict while it is alive."""
    worker = _steer(session, actor, worker_id, "forget")
    if is_alive(worker, now(session)):
        raise Conflict(f"Worker {worker_id} is alive: stop it first, or pause it.")
    _note(session, actor, f"{worker_id} was forgotten.")
    session.delete(worker)


def describe_wait(session: Session, run: Run, workers: Sequence[Worker], at: datetime) -> str:
    """Return what a queued run waits for, a studio without room included; empty when it is merely its turn that has not come."""
    disk: DiskGauge = session.info["disk"]
    if run.state == RunState.QUEUED and run.held_at is None and disk.is_limited and disk.look().is_full:
        return "Nothing begins until there is room (see Storage)."
    return explain_wait(run, workers, at)


def explain_wait(run: Run, workers: Sequence[Worker], at: datetime) -> str:
    """Return what a queued run waits for when it is not merely its turn; empty otherwise. `workers` are all that are known."""
    if run.state != RunState.QUEUED:
        return ""
    if run.held_at is not None:
        return "It is paused and begins when it is released."
    living = [worker for worker in workers if is_alive(worker, at)]
    if run.wanted_worker is not None:
        return _explain_wanted(run.wanted_worker, living)
    if not living:
        return "No worker is alive: it begins when one is started."
    allowed = [worker for worker in living if worker.id != run.avoided_worker]
    if not allowed:
        return f"It is to stay off worker {run.avoided_worker}, and no other is alive: start one, or take the wish back."
    if all(worker.paused_at is not None for worker in allowed):
        but = f" but {run.avoided_worker}, which it is to stay off," if run.avoided_worker is not None else ""
        return f"Every worker that is alive{but} is paused: it begins when one is resumed."
    places = max(count_places(worker.slots, len(worker.devices)) for worker in allowed)
    if run.num_processes > places:
        return f"It wants {run.num_processes} devices, and no worker that may take it has more than {places}."
    return ""


def _explain_wanted(worker_id: str, living: Sequence[Worker]) -> str:
    worker = next((living_worker for living_worker in living if living_worker.id == worker_id), None)
    if worker is None:
        return f"It waits for worker {worker_id}, which is not alive: start it, or take the wish back."
    if worker.paused_at is not None:
        return f"It waits for worker {worker_id}, which is paused: resume it, or take the wish back."
    return f"It waits for worker {worker_id}."


def _steer(session: Session, actor: Actor, worker_id: str, verb: str) -> Worker:
    if not actor.is_admin:
        raise Forbidden(f"Only an admin may {verb} a worker: it is there for all users.")
    return get_worker(session, worker_id)


def _note(session: Session, actor: Actor, text: str) -> None:
    acts.record(session, actor, "worker_steered", text)
