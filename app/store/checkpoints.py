"""Which checkpoints a run may go on from, by its journal: those of its present line, not of one that a resume left behind."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.run import RunState
from app.store.tables import JournalEntry

KINDS = ("state", "resume", "checkpoint")


@dataclass(frozen=True)
class Reached:
    """A checkpoint that was recorded: all of the journal before it is there."""

    attempt: int
    step: int
    name: str


def list_reached(session: Session, run_id: str) -> list[Reached]:
    """The checkpoints of the present line, newest first. What an attempt wrote past the step that a later one went on from
    is left out: its steps are not in the metrics any more.
    """
    query = select(JournalEntry.kind, JournalEntry.payload).where(JournalEntry.run_id == run_id, JournalEntry.kind.in_(KINDS))
    attempt, reached = 0, list[Reached]()
    for kind, payload in session.execute(query.order_by(JournalEntry.seq)):
        if kind == "state":
            attempt = int(payload["attempt"]) if payload["state"] == RunState.RUNNING else attempt
        elif kind == "resume":
            reached = [one for one in reached if one.step <= int(payload["step"])]
        else:
            reached = [one for one in reached if one.step < int(payload["step"])]
            reached.append(Reached(attempt, int(payload["step"]), str(payload["name"])))
    return reached[::-1]
