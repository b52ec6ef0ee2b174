"""What a user can do with the place of a run in the queue: pause, release, move, give a priority, send to a worker.

A run is steered by its owner and by admins. Nothing here commits. There is no state for a paused run: it is queued and held,
and a running one is first asked to save and go back to the queue. The order itself is in app.store.queue.
"""

from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Forbidden, InvalidInput
from app.domain.events import LogWritten
from app.domain.run import RunState
from app.services import acts
from app.services.acts import Actor
from app.services.runs import hint, tell
from app.store import journal, queue
from app.store.accounts import get_user_by_id
from app.store.database import now
from app.store.runs import lock_run
from app.store.sharing import find_visible, get_changeable, may_change
from app.store.tables import Run, Worker
from app.store.workers import list_living, list_workers

LOWEST, HIGHEST = -100, 100
FRONT, END = "front", "end"


def check_priority(actor: Actor, priority: int, *, now_at: int = 0) -> int:
    """Return the priority, when this user may give it. Raises InvalidInput out of range, Forbidden above 0 for who is no
    admin.
    """
    if not LOWEST <= priority <= HIGHEST:
        raise InvalidInput.at("priority", f"A priority is a whole number from {LOWEST} to {HIGHEST}; {priority} is not.")
    if priority > max(0, now_at) and not actor.is_admin:
        raise Forbidden("Only an admin may raise a run above priority 0; you may lower it, so that your other runs go first.")
    return priority


def set_priority(session: Session, actor: Actor, run_id: str, priority: int) -> Run:
    """Give the run a priority: higher ones begin first. Raises Forbidden, InvalidInput; Conflict when the run has ended."""
    run = _steer(session, actor, run_id, "has no place in the queue any more")
    check_priority(actor, priority, now_at=run.priority)
    if priority != run.priority:
        run.priority = priority
        _note(session, actor, run, f"Its priority is now {priority}.", is_office=priority > 0)
    return run


def note_launch(session: Session, actor: Actor, run: Run) -> None:
    """Write a launch before the others', which only an admin can do, into the log of acts."""
    if run.priority > 0:
        _note_act(session, actor, run, f"It was launched with priority {run.priority}.", is_office=True)


def pause(session: Session, actor: Actor, run_id: str) -> Run:
    """Hold the run until it is released; a running one saves first and goes back to the queue. Asking twice is asking once.

    Raises Conflict when the run has ended or is about to be cancelled.
    """
    run = _steer(session, actor, run_id, "can't be paused")
    if run.held_at is not None:
        return run
    if run.cancel_requested_at is not None:
        raise Conflict(f"Run {run_id} is being cancelled, so it can't be paused; resume it when it is cancelled.")
    run.held_at = now(session)
    if run.state == RunState.RUNNING:
        _give_back(session, run)
        _note(session, actor, run, "Pausing was requested: it saves and goes back to the queue.")
    else:
        tell(session, run)
        _note(session, actor, run, "It was paused: it doesn't begin before it is released.")
    return run


def release(session: Session, actor: Actor, run_id: str) -> Run:
    """Let a paused run go on, from its newest checkpoint where it has one. One that isn't paused stays as it is.

    Raises Conflict when the run has ended.
    """
    run = _steer(session, actor, run_id, "can't be released")
    if run.held_at is None:
        return run
    run.held_at = None
    if run.state == RunState.RUNNING:  # its runner may have been asked already: then it goes back to the queue all the same
        run.release_requested_at = None
    else:
        tell(session, run)
    _note(session, actor, run, "It was released.")
    hint(session, run_id)
    return run


def move(session: Session, actor: Actor, run_id: str, *, to: str = "", before: str = "") -> Run:
    """Give a queued run another place: to "front" or "end" of the owner's runs of its priority, or just before another one.

    The places stay the same ones, only who has which changes, so runs of others neither gain nor lose. An admin may put a run
    before one of another owner. Raises Conflict when one of them isn't queued or their priorities differ.
    """
    run = find_steered(session, actor, run_id)
    target = _find_target(session, actor, run, before) if before else None
    across = target is not None and target.owner_id != run.owner_id
    places = queue.lock_places(session, run, owner_id=None if across else run.owner_id)
    if run_id not in places:
        raise Conflict(f"Run {run_id} is {run.state}: only a queued run has a place to move.")
    others = [peer for peer in places if peer != run_id]
    at = others.index(before) if before in others else (0 if to == FRONT else len(others))
    queue.give_places(session, places, [*others[:at], run_id, *others[at:]])
    session.refresh(run)
    _note_act(session, actor, run, "It was given another place in the queue.", is_office=across)
    return run


def _find_target(session: Session, actor: Actor, run: Run, before: str) -> Run:
    """Return the run to be put before. Raises InvalidInput, Conflict."""
    target = find_visible(session, Run, actor.id, before)
    if target is None or not may_change(session, actor.id, target):
        raise InvalidInput.at("before", f"There is no run {before!r} to move it before.")
    if target.id == run.id:
        raise InvalidInput.at("before", "A run can't be moved before itself.")
    if target.state != RunState.QUEUED:
        raise Conflict(f"Run {before} is {target.state}, no longer queued: choose another place.")
    if run.state == RunState.QUEUED and target.priority != run.priority:
        raise Conflict(
            f"Run {before} has priority {target.priority} and run {run.id} {run.priority}: the higher goes first whatever its "
            "place. Give them the same priority, then move it."
        )
    return target


def send_to(session: Session, actor: Actor, run_id: str, worker_id: str | None) -> Run:
    """Have the run done by this worker; None takes the wish back. One that runs elsewhere saves and is given back first.

    Raises InvalidInput for a worker that was never heard of, Conflict when the run has ended.
    """
    run = _steer(session, actor, run_id, "can't go to another worker")
    if worker_id is not None:
        _check_worker(session, worker_id, "wanted_worker")
    if worker_id == run.wanted_worker:
        return run
    run.wanted_worker = worker_id
    if worker_id is not None and run.avoided_worker == worker_id:
        run.avoided_worker = None
    _follow(session, run)
    _note(session, actor, run, f"It is to run on worker {worker_id}." if worker_id else "It may run on any worker.")
    return run


def keep_off(session: Session, actor: Actor, run_id: str, worker_id: str | None) -> Run:
    """Keep the run off this worker; None takes the wish back. One that runs there saves and is given back first.

    Raises InvalidInput for a worker that was never heard of; Conflict when the run has ended, or no other worker is alive.
    """
    run = _steer(session, actor, run_id, "can't go to another worker")
    if worker_id == run.avoided_worker:
        return run
    if worker_id is not None:
        _check_worker(session, worker_id, "avoided_worker")
        if not any(worker.id != worker_id for worker in list_living(session)):
            raise Conflict(f"No worker but {worker_id} is alive, so the run would wait for nothing: start another one first.")
        run.wanted_worker = None if run.wanted_worker == worker_id else run.wanted_worker
    run.avoided_worker = worker_id
    _follow(session, run)
    _note(session, actor, run, f"It is to stay off worker {worker_id}." if worker_id else "It may run on any worker.")
    return run


def _follow(session: Session, run: Run) -> None:
    """After a change of wishes: a running run leaves its worker, or stays if it was about to; a queued one may begin."""
    leaves = run.wanted_worker not in (None, run.worker_id) or run.avoided_worker == run.worker_id
    if run.state != RunState.RUNNING:
        hint(session, run.id)
    elif leaves:
        _give_back(session, run)
    elif run.held_at is None:
        run.release_requested_at = None


def _check_worker(session: Session, worker_id: str, field: str) -> None:
    if session.get(Worker, worker_id) is None:
        known = ", ".join(worker.id for worker in list_workers(session)) or "none"
        raise InvalidInput.at(field, f"There is no worker {worker_id!r}; known are: {known}.")


def _give_back(session: Session, run: Run) -> None:
    run.release_requested_at = run.release_requested_at or now(session)
    hint(session, run.id)


def find_steered(session: Session, actor: Actor, run_id: str) -> Run:
    """Return the run, if this user may steer it. Raises NotFound, and Forbidden for one that may only be seen."""
    return get_changeable(session, Run, actor.id, run_id)


def _steer(session: Session, actor: Actor, run_id: str, cant: str) -> Run:
    """Return the run, locked. Raises as `find_steered`, and Conflict when it has ended."""
    find_steered(session, actor, run_id)
    run = lock_run(session, run_id)
    if RunState(run.state).final:
        raise Conflict(f"Run {run_id} has ended ({run.state}), so it {cant}.")
    return run


def _note(session: Session, actor: Actor, run: Run, text: str, *, is_office: bool = False) -> None:
    """Write into the run's journal what became of it; into the log of acts what only an admin could do (`is_office`)."""
    journal.append(session, run, [LogWritten(level="info", text=text)])
    _note_act(session, actor, run, text, is_office=is_office)


def _note_act(session: Session, actor: Actor, run: Run, text: str, *, is_office: bool = False) -> None:
    if is_office or run.owner_id != actor.id:
        owner = get_user_by_id(session, run.owner_id)
        acts.record(session, actor, "run_steered", f"{run.id} of {owner.name}: {text}", about=owner)
