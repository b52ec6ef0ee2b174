"""Much that was long ago: thousands of runs and a million metric values, written straight into the tables."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from app.services import runs as services
from app.store import metrics
from app.store.database import Database, now
from app.store.tables import JournalEntry, Metric, Run, RunTag
from tests.conftest import Library

STATES = ["succeeded", "succeeded", "succeeded", "failed", "cancelled"]
BATCH = 10_000


def add_runs(database: Database, library: Library, num_runs: int) -> list[str]:
    """Ended runs with an evaluation and two journal entries each; the ids, oldest first."""
    with database.writing() as session:
        pattern = services.launch(session, library.user.id, library.recipe())
        session.flush()
        columns = {column.name: getattr(pattern, column.name) for column in Run.__table__.columns}
        at = now(session)
        rows = [
            {**columns, "id": f"run_0{number:025d}", "name": f"Run {number}", "state": STATES[number % 5], "step": 100,
             "num_steps": 100, "last_seq": 2, "finished_at": at, "created_at": at - timedelta(minutes=num_runs - number),
             "kl": number % 97 / 10, "win_rate": number % 89 / 89, "reward_gain": 10.0}
            for number in range(num_runs)
        ]  # fmt: skip
        session.execute(insert(Run), rows)
        ids = [row["id"] for row in rows]
        state = {"state": "succeeded", "attempt": 1, "reason": "", "remedy": "", "worker": ""}
        entries = [{"run_id": id, "seq": seq, "kind": "state", "payload": state, "at": at} for id in ids for seq in (1, 2)]
        session.execute(insert(JournalEntry), entries)
        gains = [{"run_id": id, "key": "eval/reward_gain", "step": step, "value": 0.1 * step} for id in ids for step in (50, 100)]
        session.execute(insert(Metric), gains)
        tags = [{"run_id": id, "tag": "third", "owner_id": library.user.id} for id in ids[::3]]
        session.execute(insert(RunTag), tags)
    return ids


def add_long_run(database: Database, library: Library, num_steps: int, keys: tuple[str, ...] = ("loss",)) -> str:
    """A run with `num_steps` values of each key, and a journal entry for each step."""
    with database.writing() as session:
        run = services.launch(session, library.user.id, library.recipe())
        run.state, run.step, run.num_steps, run.last_seq = "cancelled", num_steps, num_steps, num_steps + 1
    for first in range(1, num_steps + 1, BATCH):
        steps = range(first, min(first + BATCH, num_steps + 1))
        with database.writing() as session:
            metrics.write_metrics(session, run.id, dict(values(keys, steps)))
            session.execute(insert(JournalEntry), list(entries(run.id, steps, num_steps)))
    return run.id


def values(keys: tuple[str, ...], steps: range) -> Iterator[tuple[tuple[str, int], float | None]]:
    for key in keys:
        for step in steps:
            yield (key, step), (None if step % 9973 == 0 else math.sin(step / 5000) + (step % 17) / 100)


def entries(run_id: str, steps: range, num_steps: int) -> Iterator[dict[str, Any]]:
    at = datetime.now(UTC)
    for step in steps:
        payload = {
            "step": step, "num_steps": num_steps, "epoch": step / num_steps, "batch": step - 1,
            "metrics": {"loss": math.sin(step / 5000)}, "histogram": [0, 1, 2, 3, 4, 5], "seconds_left": None,
        }  # fmt: skip
        yield {"run_id": run_id, "seq": step + 1, "kind": "step", "payload": payload, "at": at}
