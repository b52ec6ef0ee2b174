"""What is measured of the whole studio at one moment, from the database alone: cheap however many runs and values there are."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.domain.run import RunState
from app.store.database import now
from app.store.tables import Attempt, Dataset, Metric, Run, Worker
from app.store.workers import WorkerState, judge, list_workers

PER_RUN = ("step_seconds", "tokens_per_second")
MOST_RUNNING = 200  # run ids that may become labels
MOST_WORKERS = 200


@dataclass(frozen=True)
class WorkerMeasures:
    """One worker, as of its last beat; bytes, seconds."""

    id: str
    standing: WorkerState
    heartbeat_age_seconds: float
    slots: int
    slots_used: int
    num_runs: int
    spool_lag_bytes: int
    spool_lag_seconds: float
    devices: list[dict[str, Any]]


@dataclass
class Measures:
    """Counts of runs and attempts, and what running runs and workers last said of themselves."""

    states: dict[str, int] = field(default_factory=dict)
    queued: dict[tuple[str, str], int] = field(default_factory=dict)  # by kind, and held: "yes" or "no"
    oldest_waiting_seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)  # of attempts; "" while they go on
    num_requeues: int = 0
    running: dict[str, dict[str, float]] = field(default_factory=dict)  # run → newest value by key
    workers: list[WorkerMeasures] = field(default_factory=list)  # those that stopped in good order are left out
    standings: dict[str, int] = field(default_factory=dict)
    num_free_slots: int = 0  # of workers that may begin runs
    num_ingesting: int = 0


def measure(session: Session) -> Measures:
    """Return all of it, in about a dozen queries that read indexes or small tables."""
    at = now(session)
    measures = Measures()
    measures.states = _count(session, Run.state)
    _measure_queue(session, measures, at)
    waiting = {RunState.QUEUED: "no", RunState.PAUSED: "yes"}
    measures.states |= {
        str(state): sum(number for (_, held), number in measures.queued.items() if held == is_held)
        for state, is_held in waiting.items()
    }
    _measure_attempts(session, measures)
    owners = _measure_running(session, measures)
    _measure_workers(session, measures, at, owners)
    measures.num_ingesting = session.scalar(select(func.count()).where(Dataset.state == "processing")) or 0
    return measures


def ask_smallest(session: Session) -> None:
    """The smallest question there is, to time the way to the database."""
    session.execute(text("SELECT 1")).scalar_one()


def _count(session: Session, column: InstrumentedAttribute[str]) -> dict[str, int]:
    """Return how many rows there are for each value of the column."""
    return {row[0]: row[1] for row in session.execute(select(column, func.count()).group_by(column))}


def _measure_queue(session: Session, measures: Measures, at: datetime) -> None:
    is_held = Run.held_at.is_not(None)
    query = select(Run.kind, is_held, func.count(), func.min(Run.queued_at)).where(Run.state == RunState.QUEUED)
    for kind, held, number, first in session.execute(query.group_by(Run.kind, is_held)):
        measures.queued[kind, "yes" if held else "no"] = number
        if not held:
            waited = max(0.0, (at - first).total_seconds())
            measures.oldest_waiting_seconds = max(measures.oldest_waiting_seconds, waited)


def _measure_running(session: Session, measures: Measures) -> dict[str, int]:
    """Return the newest values of running runs; returns how many runs each worker has."""
    query = select(Run.id, Run.worker_id).where(Run.state == RunState.RUNNING).order_by(Run.id.desc())
    owners: dict[str, int] = defaultdict(int)
    running = list(session.execute(query))
    for _, worker_id in running:
        owners[worker_id or ""] += 1
    ids = [run_id for run_id, _ in running[:MOST_RUNNING]]
    # The value at the row's own step, by the primary key: looking for the newest would read a whole series of each run.
    at_step = and_(Metric.run_id == Run.id, Metric.key.in_(PER_RUN), Metric.step == Run.step)
    values = select(Metric.run_id, Metric.key, Metric.value).join(Run, at_step).where(Run.id.in_(ids), Metric.value.is_not(None))
    for run_id, key, value in session.execute(values):
        measures.running.setdefault(run_id, {})[key] = value or 0.0
    return owners


def _measure_attempts(session: Session, measures: Measures) -> None:
    is_again = Attempt.number > 1
    for outcome, again, number in session.execute(
        select(Attempt.outcome, is_again, func.count()).group_by(Attempt.outcome, is_again)
    ):
        measures.outcomes[outcome] = measures.outcomes.get(outcome, 0) + number
        measures.num_requeues += number if again else 0


def _measure_workers(session: Session, measures: Measures, at: datetime, owners: Mapping[str, int]) -> None:
    """Of more workers than may become labels those heard last."""
    workers = [
        _measure_worker(worker, at, owners.get(worker.id, 0)) for worker in list_workers(session) if worker.left_at is None
    ]
    measures.standings = Counter(worker.standing for worker in workers)
    measures.num_free_slots = sum(
        max(0, measured.slots - measured.slots_used) for measured in workers if measured.standing == "alive"
    )
    heard = sorted(workers, key=lambda worker: worker.heartbeat_age_seconds)[:MOST_WORKERS]
    measures.workers = sorted(heard, key=lambda worker: worker.id)


def _measure_worker(worker: Worker, at: datetime, num_runs: int) -> WorkerMeasures:
    attempts: list[dict[str, Any]] = worker.load.get("running", [])
    return WorkerMeasures(
        id=worker.id,
        standing=judge(worker, at),
        heartbeat_age_seconds=max(0.0, (at - worker.beat_at).total_seconds()),
        slots=worker.slots,
        slots_used=sum(len(attempt.get("slots", ())) for attempt in attempts),
        num_runs=num_runs,
        spool_lag_bytes=sum(int(attempt.get("spool_lag_bytes", 0)) for attempt in attempts),
        spool_lag_seconds=max((float(attempt.get("spool_lag_seconds", 0.0)) for attempt in attempts), default=0.0),
        devices=list(worker.devices),
    )
