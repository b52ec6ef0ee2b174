"""Workers: who is alive, what each can take, and the rows of lists, in two queries however many there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.database import now
from app.store.runs import list_running
from app.store.tables import Run, Worker

WorkerState = Literal["alive", "paused", "gone"]


@dataclass(frozen=True)
class RunningRow:
    """A run on a worker, with what the worker's last beat said of it; before that there are no slots and no lag."""

    run: Run
    slots: list[int]
    spool_lag_seconds: float | None


@dataclass(frozen=True)
class WorkerRow:
    worker: Worker
    standing: WorkerState
    silent_seconds: float
    running: list[RunningRow]
    num_used: int

    @property
    def num_places(self) -> int:
        """How many processes of one run it can take."""
        return count_places(self.worker.slots, len(self.worker.devices))


def describe_workers(session: Session) -> list[WorkerRow]:
    """Return all workers, by name."""
    return _describe(session, list_workers(session), list_running(session))


def describe_worker(session: Session, worker: Worker) -> WorkerRow:
    """One worker."""
    return _describe(session, [worker], list_running(session, worker.id))[0]


def judge(worker: Worker, at: datetime) -> WorkerState:
    """Gone: not heard of within its lease, or stopped; paused: alive, and begins nothing."""
    if not is_alive(worker, at):
        return "gone"
    return "alive" if worker.paused_at is None else "paused"


def _describe(session: Session, workers: Sequence[Worker], running: Sequence[Run]) -> list[WorkerRow]:
    at = now(session)
    by_worker: dict[str | None, list[Run]] = defaultdict(list)
    for run in running:
        by_worker[run.worker_id].append(run)
    return [_row(worker, by_worker[worker.id], at) for worker in workers]


def _row(worker: Worker, runs: Sequence[Run], at: datetime) -> WorkerRow:
    told = {attempt["run_id"]: attempt for attempt in worker.load.get("running", [])}
    rows = [RunningRow(run, told.get(run.id, {}).get("slots", []), told.get(run.id, {}).get("spool_lag_seconds")) for run in runs]
    return WorkerRow(
        worker=worker,
        standing=judge(worker, at),
        silent_seconds=max(0.0, (at - worker.beat_at).total_seconds()),
        running=rows,
        num_used=sum(len(row.slots) or row.run.num_processes for row in rows),
    )


LEASE_SECONDS = 30.0  # of a worker whose beat does not tell its own


def list_workers(session: Session) -> list[Worker]:
    """Return all workers that are remembered, by name: an order that no heartbeat changes."""
    return list(session.scalars(select(Worker).order_by(Worker.id)))


def is_alive(worker: Worker, at: datetime) -> bool:
    """Return whether the worker was heard of within its lease, after which its runs go to others, and has not stopped in good
    order.
    """
    lease = timedelta(seconds=float(worker.load.get("lease_seconds", LEASE_SECONDS)))
    return worker.left_at is None and at - worker.beat_at < lease


def list_living(session: Session) -> list[Worker]:
    """Return the workers that are alive, paused ones too."""
    at = now(session)
    return [worker for worker in list_workers(session) if is_alive(worker, at)]


def has_worker(session: Session) -> bool:
    """Return whether any worker is alive."""
    return bool(list_living(session))


def count_places(slots: int, num_devices: int) -> int:
    """Return how many processes a worker can give one run: each on a GPU of its own, or in a slot where there is none."""
    return min(slots, num_devices) if num_devices else slots


def find_most_places(session: Session) -> int | None:
    """Return the most processes that a worker that is alive can give one run; None when none is."""
    return max((count_places(worker.slots, len(worker.devices)) for worker in list_living(session)), default=None)
