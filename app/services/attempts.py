"""What a worker does with runs: begin, renew, record, finish, interrupt, lose, reap. Nothing here commits.

A claim gives a fencing token, one higher each time. Every later write names it; a stale one changes nothing and raises
StaleToken. Leases are in database time, the one clock all machines share.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.domain.answering.job import AnswersSpec
from app.domain.errors import StaleToken
from app.domain.events import Event, OutcomeReached
from app.domain.jobs import RunSpec
from app.domain.recipe import revive_recipe
from app.domain.run import Outcome, RunKind, RunState
from app.services.answering import makers, specs
from app.services.answering.endpoints import read_key
from app.services.recipes import describe_recipe
from app.services.runs import hint, move
from app.settings import Settings
from app.store import journal, queue
from app.store.database import now
from app.store.files.files import Files
from app.store.runs import lock_run
from app.store.tables import Attempt, Endpoint, Run, Worker

ANY = 2**31 - 1
MAX_ATTEMPTS = 3
MAX_ATTEMPTS_KILLED = 2  # by SIGKILL: perhaps for memory, which a second retry would not change
FORGET_WORKER_AFTER = timedelta(days=1)
FORGET_PAUSED_AFTER = timedelta(days=30)


@dataclass(frozen=True)
class Claim:
    """A run in the hands of a worker; `token` must come with every write."""

    run_id: str
    token: int
    attempt: int
    recipe: dict[str, Any]
    spool_attempt: int = 0  # the earlier attempt whose spool may hold more than its worker could record; 0: none
    kind: RunKind = RunKind.TRAINING
    answers_id: str | None = None

    @property
    def num_processes(self) -> int:
        """How many places of a worker it takes; scores and answers are made by one process."""
        return int(self.recipe["training"].get("num_processes", 1)) if self.kind is RunKind.TRAINING else 1

    @property
    def keeps_checkpoints(self) -> int:
        """How many of the newest checkpoints are kept; answers have none."""
        return int(self.recipe["training"].get("keep_checkpoints", 2)) if self.recipe else 0


def begin(
    session: Session, worker_id: str, lease_seconds: float, *, num_free: int = ANY, num_places: int = ANY, more_than: int = 0
) -> Claim | None:
    """Claim the run that is next in the queue (see app.store.queue). None when none can begin here now.

    Nothing begins on a worker that is paused; it passes over runs that are held, want another worker or avoid it.

    Of the worker's `num_places`, `num_free` are free. A run of more processes than are free keeps its place at the head of
    the queue, and nothing behind it is begun here meanwhile: so small runs never starve a large one. A run of more than
    `num_places` is passed over. With `more_than`, only runs of more processes than that count.
    """
    at = now(session)
    first = queue.first_in_line(session, worker_id, num_places=num_places, more_than=more_than)
    may_begin = (queue.may_begin(Run, worker_id), queue.is_working(worker_id), queue.num_processes() <= num_free)
    statement = (
        update(Run)
        .where(Run.id == first.scalar_subquery(), *may_begin)
        .values(token=Run.token + 1, attempt=Run.attempt + 1, worker_id=worker_id, wanted_worker=None)
        .returning(Run.id)
    )
    run_id = session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none()
    if run_id is None:
        return None
    run = lock_run(session, run_id)
    run.lease_expires_at = at + timedelta(seconds=lease_seconds)
    run.started_at = run.started_at or at
    run.stage, run.progress, run.seconds_left = "", 0.0, None
    session.add(Attempt(run_id=run.id, number=run.attempt, worker_id=worker_id, started_at=at))
    move(session, run, RunState.RUNNING)
    return Claim(run.id, run.token, run.attempt, run.recipe, run.spool_attempt, RunKind(run.kind), run.answers_id)


def open_spool(session: Session, claim: Claim) -> None:
    """From now on the lines of this attempt's own spool are recorded; what an earlier one left must be recorded before."""
    run = _owned(session, claim.run_id, claim.token)
    run.spool_attempt, run.spool_n = claim.attempt, 0


def build_spec(
    session: Session, files: Files, settings: Settings, claim: Claim, device: str,
    *, num_threads: int | None = None, supervisor_pid: int | None = None,
) -> RunSpec | AnswersSpec:  # fmt: skip
    """Return all that the runner of this attempt is told. Raises RecipeInvalid when the recipe's data set or model is gone;
    as `specs.describe_answers` for one that answers prompts.
    """
    run = session.get(Run, claim.run_id)
    common = {
        "run_id": claim.run_id, "kind": claim.kind, "attempt": claim.attempt, "run_dir": str(files.run_dir(claim.run_id)),
        "hub_dir": str(files.hub_dir), "device": device, "num_processes": claim.num_processes,
        "num_threads": num_threads or settings.runner_threads or None, "memory_bytes": settings.runner_memory_bytes or None,
        "launched_on": run.created_at.date() if run is not None else None, "supervisor_pid": supervisor_pid,
    }  # fmt: skip
    if claim.kind is RunKind.ANSWERS:
        return AnswersSpec.model_validate(common | specs.describe_answers(session, files, settings, run))
    return RunSpec.model_validate(common | describe_recipe(session, files, revive_recipe(claim.recipe)))


def hand_keys(session: Session, settings: Settings, spec: RunSpec | AnswersSpec) -> dict[str, str]:
    """Return the keys of the endpoints that the runner asks, for its own ears. Raises InvalidInput when one can't be opened."""
    asked = [source for source in spec.list_endpoints() if source.has_key] if isinstance(spec, AnswersSpec) else []
    return {source.id: read_key(settings, session.get_one(Endpoint, source.id)) for source in asked}


def renew(session: Session, run_id: str, token: int, lease_seconds: float) -> bool:
    """Hold the run for another lease; tells whether its cancelling is wanted. Raises StaleToken when it is lost."""
    statement = (
        update(Run)
        .where(Run.id == run_id, Run.token == token, Run.state == RunState.RUNNING)
        .values(lease_expires_at=now(session) + timedelta(seconds=lease_seconds))
        .returning(Run.id, Run.cancel_requested_at)
    )
    row = session.execute(statement.execution_options(synchronize_session=False)).one_or_none()
    if row is None:
        raise stale(run_id)
    return row.cancel_requested_at is not None


def note(session: Session, run_id: str, token: int, event: Event) -> None:
    """Write what the worker itself has to tell of the run into its journal. Raises StaleToken."""
    journal.append(session, _owned(session, run_id, token), [event])


def finish(
    session: Session, run_id: str, token: int, outcome: OutcomeReached, log_tail: str = "", *, max_attempts: int = MAX_ATTEMPTS
) -> RunState:
    """Turn the runner's last word into the run's state, which is returned. Raises StaleToken."""
    run = _owned(session, run_id, token)
    if outcome.outcome is Outcome.INTERRUPTED:
        _interrupt(session, run, outcome.reason)
    elif outcome.outcome is Outcome.FAILED and outcome.retry:
        _lose(session, run, Outcome.FAILED.value, outcome.reason, outcome.remedy, log_tail, max_attempts)
    else:
        run.summary = dict(outcome.summary) or run.summary
        _end_attempt(session, run, outcome.outcome.value, outcome.reason)
        _end(session, run, RunState(outcome.outcome.value), outcome.reason, outcome.remedy, log_tail)
        if run.kind == RunKind.ANSWERS and outcome.outcome is Outcome.SUCCEEDED:
            makers.go_on(session, run)
    return RunState(run.state)


def lose(
    session: Session, run_id: str, token: int, reason: str, *,
    remedy: str = "", log_tail: str = "", max_attempts: int = MAX_ATTEMPTS,
) -> RunState:  # fmt: skip
    """Return the attempt ended without a word: queue the run again, or fail it with the log's tail after `max_attempts`."""
    run = _owned(session, run_id, token)
    _lose(session, run, "lost", reason, remedy, log_tail, max_attempts)
    return RunState(run.state)


def reap(session: Session, *, max_attempts: int = MAX_ATTEMPTS, spare: Collection[str] = ()) -> list[str]:
    """Take back the runs whose lease is over, but for those in `spare`. Two reapers at once take different ones.

    Returns their ids.
    """
    query = select(Run).where(Run.state == RunState.RUNNING, Run.lease_expires_at < now(session), Run.id.not_in(spare))
    expired = list(session.scalars(query.order_by(Run.id).with_for_update(skip_locked=True)))
    for run in expired:
        reason = f"Nothing was heard of worker {run.worker_id} for too long: it, or its machine, has stopped."
        _lose(session, run, "lost", reason, "Look at the worker's log on its machine.", "", max_attempts)
    return [run.id for run in expired]


def beat(
    session: Session, worker_id: str, *, hostname: str, devices: list[Any], slots: int, started_at: datetime | None = None,
    load: Mapping[str, Any] | None = None, version: str = "",
) -> datetime:  # fmt: skip
    """Note that the worker lives; with `started_at` None it has just started. Returns its start. Old ones are forgotten.

    `load` is what it does now: {"lease_seconds", "running": [{"run_id", "attempt", "slots", "pid", "spool_lag_bytes",
    "spool_lag_seconds"}], "off": {fast path: why its machine does not allow it}}; it is alive for a lease after each beat.
    Whether it is paused stays as it is.
    """
    at = now(session)
    worker = session.get(Worker, worker_id) or Worker(id=worker_id)
    worker.hostname, worker.devices, worker.slots, worker.version = hostname, devices, slots, version
    worker.started_at, worker.beat_at, worker.left_at = started_at or at, at, None
    worker.load = dict(load or {})
    session.add(worker)
    for old in session.scalars(select(Worker).where(Worker.beat_at < at - FORGET_WORKER_AFTER)):
        if old.paused_at is None or old.beat_at < at - FORGET_PAUSED_AFTER:
            session.delete(old)
    return worker.started_at


def leave(session: Session, worker_id: str, *, comes_back: bool = False) -> None:
    """The worker stops for good: forget it. One that is paused and `comes_back` under its name is remembered as paused."""
    worker = session.get(Worker, worker_id)
    if worker is not None and comes_back and worker.paused_at is not None:
        worker.left_at, worker.load = now(session), {}
    elif worker is not None:
        session.delete(worker)


def stale(run_id: str) -> StaleToken:
    """Return the error of a worker that no longer owns the run."""
    return StaleToken(f"Another attempt owns run {run_id} now, or it has ended: this write was refused.")


def _owned(session: Session, run_id: str, token: int) -> Run:
    run = lock_run(session, run_id)
    if run.token != token or run.state != RunState.RUNNING:
        raise stale(run_id)
    return run


def _interrupt(session: Session, run: Run, reason: str) -> None:
    if run.release_requested_at is not None:  # the runner only knows that it was told to stop
        reason = "It was paused." if run.held_at is not None else "It was given back to the queue, for another worker."
    _end_attempt(session, run, Outcome.INTERRUPTED.value, reason)
    _requeue(session, run, reason)


def _lose(session: Session, run: Run, outcome: str, reason: str, remedy: str, log_tail: str, max_attempts: int) -> None:
    run.num_failures += 1
    _end_attempt(session, run, outcome, reason)
    if run.num_failures < max_attempts or run.cancel_requested_at is not None:
        _requeue(session, run, reason)
    else:
        tries = f" (attempt {run.num_failures} of {max_attempts})" if max_attempts > 1 else ""
        _end(session, run, RunState.FAILED, reason + tries, remedy, log_tail)


def _requeue(session: Session, run: Run, reason: str) -> None:
    """Back to the queue with its old place; a run whose cancelling was asked for ends here instead."""
    if run.cancel_requested_at is not None:
        _end(session, run, RunState.CANCELLED, "", "", "")
        return
    move(session, run, RunState.INTERRUPTED, reason=reason)
    run.worker_id, run.lease_expires_at, run.release_requested_at = None, None, None
    move(session, run, RunState.QUEUED)
    hint(session, run.id)


def _end_attempt(session: Session, run: Run, outcome: str, reason: str) -> None:
    attempt = session.get(Attempt, (run.id, run.attempt))
    if attempt is not None:
        attempt.ended_at, attempt.outcome, attempt.reason = now(session), outcome, reason


def _end(session: Session, run: Run, state: RunState, reason: str, remedy: str, log_tail: str) -> None:
    run.finished_at, run.lease_expires_at, run.seconds_left = now(session), None, None
    run.held_at, run.release_requested_at = None, None
    if state is RunState.SUCCEEDED:
        run.progress = 1.0
    if state is RunState.FAILED:
        run.error = {"reason": reason, "remedy": remedy, "log_tail": log_tail}
    move(session, run, state, reason=reason, remedy=remedy)
