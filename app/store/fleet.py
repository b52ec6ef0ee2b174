"""Workers as lists show them: alive or not, what they have, and what runs where. Two queries, however many there are."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.orm import Session

from app.store.database import now
from app.store.runs import count_places, is_alive, list_running, list_workers
from app.store.tables import Run, Worker

Standing = Literal["alive", "paused", "gone"]


@dataclass(frozen=True)
class RunningRow:
    """A run on a worker, with what the worker's last beat said of it; before that there are no slots and no lag."""

    run: Run
    slots: list[int]
    spool_lag_seconds: float | None


@dataclass(frozen=True)
class WorkerRow:
    worker: Worker
    standing: Standing
    silent_seconds: float
    running: list[RunningRow]
    num_used: int

    @property
    def num_places(self) -> int:
        """How many processes of one run it can take."""
        return count_places(self.worker.slots, len(self.worker.devices))


def describe_workers(session: Session) -> list[WorkerRow]:
    """All workers, by name."""
    return _describe(session, list_workers(session), list_running(session))


def describe_worker(session: Session, worker: Worker) -> WorkerRow:
    """One worker."""
    return _describe(session, [worker], list_running(session, worker.id))[0]


def judge(worker: Worker, at: datetime) -> Standing:
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
    told = {one["run_id"]: one for one in worker.load.get("running", [])}
    rows = [RunningRow(run, told.get(run.id, {}).get("slots", []), told.get(run.id, {}).get("spool_lag_seconds")) for run in runs]
    return WorkerRow(
        worker=worker,
        standing=judge(worker, at),
        silent_seconds=max(0.0, (at - worker.beat_at).total_seconds()),
        running=rows,
        num_used=sum(len(row.slots) or row.run.num_processes for row in rows),
    )
