"""Runs as they are kept: rows, metric series, attempts, workers, and the weights file of a run."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.domain.run import RunKind, RunState
from app.store import parquet, spans
from app.store.database import now
from app.store.files import Files
from app.store.spans import Point
from app.store.tables import Attempt, JournalEntry, Metric, Run, Worker

LEASE_SECONDS = 30.0  # of a worker whose beat does not tell its own
ALL_CHECKPOINTS_REMOVED = "All checkpoints were removed"  # how retention says it in the journal


def get_run(session: Session, owner_id: str, run_id: str) -> Run:
    """The owner's run. Raises NotFound, for somebody else's too."""
    run = session.get(Run, run_id)
    if run is None or run.owner_id != owner_id:
        raise NotFound(f"There is no run {run_id!r}.")
    return run


def list_runs(
    session: Session, owner_id: str, *, state: RunState | str | None = None, kind: RunKind | None = RunKind.TRAINING,
    after: str | None = None, limit: int = 50,
) -> list[Run]:  # fmt: skip
    """The owner's runs of one kind (None: of any), newest first; `after` is the id of the last run of the page before."""
    query = select(Run).where(Run.owner_id == owner_id)
    if kind is not None:
        query = query.where(Run.kind == kind.value)
    if state is not None:
        query = query.where(Run.state == str(state))
    if after is not None:
        query = query.where(Run.id < after)
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def lock_run(session: Session, run_id: str) -> Run:
    """The run's row as it is now, locked until the transaction ends. Raises NotFound."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.")
    return run


def has_queued(session: Session) -> bool:
    """Whether any run waits for a worker."""
    return session.scalar(select(Run.id).where(Run.state == RunState.QUEUED).limit(1)) is not None


class Watched(NamedTuple):
    """What the supervisor of a running run looks for."""

    token: int
    cancel_wanted: bool
    release_wanted: bool


def watch(session: Session, run_ids: Sequence[str]) -> dict[str, Watched]:
    """Of each run that is running: its fencing token, and whether it is to be cancelled, or to save and go back to the queue."""
    query = select(Run.id, Run.token, Run.cancel_requested_at, Run.release_requested_at)
    rows = session.execute(query.where(Run.id.in_(run_ids), Run.state == RunState.RUNNING))
    return {run_id: Watched(token, cancel is not None, release is not None) for run_id, token, cancel, release in rows}


def list_running(session: Session, worker_id: str | None = None) -> list[Run]:
    """The running runs, of one worker or of all, in the order of their ids."""
    query = select(Run).where(Run.state == RunState.RUNNING)
    if worker_id is not None:
        query = query.where(Run.worker_id == worker_id)
    return list(session.scalars(query.order_by(Run.id)))


def has_lost_checkpoints(session: Session, run_id: str) -> bool:
    """Whether the journal says that the run's checkpoints were all removed, and of none since."""
    query = select(func.max(JournalEntry.seq)).where(JournalEntry.run_id == run_id)
    saved = session.scalar(query.where(JournalEntry.kind == "checkpoint")) or 0
    text = JournalEntry.payload["text"].as_string()
    removed = session.scalar(query.where(JournalEntry.kind == "log", text.startswith(ALL_CHECKPOINTS_REMOVED)))
    return removed is not None and removed > saved


def list_attempts(session: Session, run_id: str) -> list[Attempt]:
    """The run's attempts, first to last."""
    return list(session.scalars(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number)))


def list_workers(session: Session) -> list[Worker]:
    """All workers that are remembered, by name: an order that no heartbeat changes."""
    return list(session.scalars(select(Worker).order_by(Worker.id)))


def is_alive(worker: Worker, at: datetime) -> bool:
    """Whether the worker was heard of within its lease, after which its runs go to others, and has not stopped in good order."""
    lease = timedelta(seconds=float(worker.load.get("lease_seconds", LEASE_SECONDS)))
    return worker.left_at is None and at - worker.beat_at < lease


def list_living(session: Session) -> list[Worker]:
    """The workers that are alive, paused ones too."""
    at = now(session)
    return [worker for worker in list_workers(session) if is_alive(worker, at)]


def has_worker(session: Session) -> bool:
    """Whether any worker is alive."""
    return bool(list_living(session))


def count_places(slots: int, num_devices: int) -> int:
    """How many processes a worker can give one run: each on a GPU of its own, or in a slot where there is none."""
    return min(slots, num_devices) if num_devices else slots


def find_most_places(session: Session) -> int | None:
    """The most processes that a worker that is alive can give one run; None when none is."""
    return max((count_places(worker.slots, len(worker.devices)) for worker in list_living(session)), default=None)


def metric_keys(session: Session, run_id: str) -> list[str]:
    """The keys of the run's series, sorted. One look into the index per key, however long the series are."""
    mine = select(func.min(Metric.key)).where(Metric.run_id == run_id)
    found = mine.cte("found", recursive=True)
    key = found.c[0]
    found = found.union_all(select(mine.where(Metric.key > key).scalar_subquery()).where(key.is_not(None)))
    return [key for key in session.scalars(select(found.c[0])) if key is not None]


def list_metrics(session: Session, run_id: str, keys: Sequence[str], points: int = 500) -> dict[str, list[Point]]:
    """The series of these keys, in step order, each of at most `points` points; unknown keys give an empty list.

    A longer series is cut into at most points / 2 equal ranges of steps, of which the smallest and the largest value stay,
    at their own steps, so that no peak is lost. A value that was not finite is None; in a longer series it stays where a
    whole range has nothing else.
    """
    series: dict[str, list[Point]] = {}
    for key in keys:
        query = select(Metric.step, Metric.value).where(Metric.run_id == run_id, Metric.key == key).order_by(Metric.step)
        found: list[Point] = [(step, value) for step, value in session.execute(query.limit(points + 1))]
        if len(found) > points:
            last = spans.last_steps(session, run_id, [key])[key]
            found = spans.thin_out(session, run_id, key, found[0][0], last, max(1, points // 2))
        series[key] = found
    return series


def write_metrics(session: Session, run_id: str, values: Mapping[tuple[str, int], float | None]) -> None:
    """Write values by (key, step) in one statement; one that is there already is replaced."""
    if not values:
        return
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    inserted = sqlite.insert(Metric) if is_sqlite else postgresql.insert(Metric)
    statement = inserted.on_conflict_do_update(index_elements=["run_id", "key", "step"], set_={"value": inserted.excluded.value})
    rows = [{"run_id": run_id, "key": key, "step": step, "value": value} for (key, step), value in values.items()]
    known = spans.last_steps(session, run_id, {key for key, _ in values})
    session.execute(statement, rows)
    spans.keep(session, run_id, known, values)


def drop_metrics_after(session: Session, run_id: str, step: int) -> None:
    """Forget values of later steps: a resumed attempt makes them again."""
    session.execute(delete(Metric).where(Metric.run_id == run_id, Metric.step > step))
    spans.forget_after(session, run_id, step)


def read_weights(files: Files, run_id: str, batch: int) -> list[dict[str, Any]]:
    """The responses of one batch of the plan, with their weights (columns of artifacts/weights.parquet).

    Raises NotFound while the run has not written the file; a batch outside the plan gives an empty list.
    """
    return parquet.read_value(files.artifact_path(run_id, "weights.parquet"), "batch", batch)
