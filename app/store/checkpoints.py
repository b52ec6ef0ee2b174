"""Which checkpoints a run may go on from, by its journal: those of its present line, not of one that a resume left behind.

And which of them are kept, so that their models can answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from app.domain.run import RunState
from app.store.runs import ALL_CHECKPOINTS_REMOVED
from app.store.tables import JournalEntry, Run

KINDS = ("state", "resume", "checkpoint")


@dataclass(frozen=True)
class Reached:
    """A checkpoint that was recorded: all of the journal before it is there."""

    attempt: int
    step: int
    name: str


def list_reached(session: Session, run_id: str) -> list[Reached]:
    """Return the checkpoints of the present line, newest first. What an attempt wrote past the step that a later one went on from
    is left out: its steps are not in the metrics any more.
    """
    query = select(JournalEntry.kind, JournalEntry.payload).where(JournalEntry.run_id == run_id, JournalEntry.kind.in_(KINDS))
    return follow((kind, payload) for kind, payload in session.execute(query.order_by(JournalEntry.seq)))


def list_kept(session: Session, runs: Sequence[Run]) -> dict[str, list[Reached]]:
    """Return the checkpoints that each run keeps, newest first; runs without any are left out. One query."""
    most = {run.id: int(run.recipe["training"]["keep_checkpoints"]) for run in runs if run.recipe}
    was_removed = JournalEntry.payload["text"].as_string().startswith(ALL_CHECKPOINTS_REMOVED)
    query = (
        select(JournalEntry.run_id, JournalEntry.kind, JournalEntry.payload)
        .where(JournalEntry.run_id.in_(list(most)), or_(JournalEntry.kind.in_(KINDS), (JournalEntry.kind == "log") & was_removed))
        .order_by(JournalEntry.run_id, JournalEntry.seq)
    )
    by_run = groupby(session.execute(query), key=lambda row: row.run_id)
    kept = {run_id: follow((row.kind, row.payload) for row in rows)[: most[run_id]] for run_id, rows in by_run}
    return {run_id: found for run_id, found in kept.items() if found}


def follow(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Reached]:
    """Return the checkpoints of the line that these entries of a journal end in, newest first; logged is that all went."""
    attempt, reached = 0, list[Reached]()
    for kind, payload in entries:
        if kind == "state":
            attempt = int(payload["attempt"]) if payload["state"] == RunState.RUNNING else attempt
        elif kind == "log":
            reached.clear()
        elif kind == "resume":
            reached = [checkpoint for checkpoint in reached if checkpoint.step <= int(payload["step"])]
        else:
            reached = [checkpoint for checkpoint in reached if checkpoint.step < int(payload["step"])]
            reached.append(Reached(attempt, int(payload["step"]), str(payload["name"])))
    return reached[::-1]


def newest_steps(session: Session, run_ids: Sequence[str]) -> dict[str, int]:
    """Of each run that has a checkpoint, the step that its next attempt goes on after; one query, however many runs there are."""
    query = select(JournalEntry.run_id, func.max(JournalEntry.seq).label("seq")).group_by(JournalEntry.run_id)
    newest = query.where(JournalEntry.run_id.in_(run_ids), JournalEntry.kind.in_(("resume", "checkpoint"))).subquery()
    later = aliased(JournalEntry)
    is_gone = (
        select(later.seq)
        .where(later.run_id == newest.c.run_id, later.kind == "log", later.seq > newest.c.seq)
        .where(later.payload["text"].as_string().startswith(ALL_CHECKPOINTS_REMOVED))
        .exists()
    )
    is_newest = (JournalEntry.run_id == newest.c.run_id) & (JournalEntry.seq == newest.c.seq)
    found = session.execute(select(JournalEntry.run_id, JournalEntry.payload).join(newest, is_newest).where(~is_gone))
    return {run_id: int(payload["step"]) for run_id, payload in found}
