"""The weight histograms of a run over its steps, few enough to draw."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.store.tables import JournalEntry

Histogram = tuple[int, list[int]]  # step, counts per bin of app.domain.metrics.WEIGHT_EDGES


def list_histograms(session: Session, run_id: str, columns: int = 200) -> list[Histogram]:
    """At most about `columns` histograms, evenly spread over the steps, the last one always among them.

    What an interrupted attempt logged after the checkpoint that the next one resumed from is left out.
    """
    stride = max(1, -(-_count(session, run_id) // columns))
    found: list[Histogram] = []
    for kind, payload in session.execute(_sparse(run_id, stride)):
        step = int(payload["step"])
        while found and found[-1][0] >= step + (kind == "resume"):
            found.pop()
        if kind == "step" and payload["histogram"]:
            found.append((step, payload["histogram"]))
    return found


def _count(session: Session, run_id: str) -> int:
    query = select(func.count()).where(JournalEntry.run_id == run_id, JournalEntry.kind == "step")
    return session.scalar(query) or 0


def _sparse(run_id: str, stride: int):  # type: ignore[no-untyped-def]  # a Select of two columns has no short name
    """Every `stride`-th step event counted from the last, and every resume, in the journal's order."""
    number = func.row_number().over(partition_by=JournalEntry.kind, order_by=JournalEntry.seq.desc())
    numbered = (
        select(JournalEntry.seq, JournalEntry.kind, number.label("number"))
        .where(JournalEntry.run_id == run_id, JournalEntry.kind.in_(["step", "resume"]))
        .subquery()
    )
    wanted = select(numbered.c.seq).where((numbered.c.kind == "resume") | ((numbered.c.number - 1) % stride == 0))
    return (
        select(JournalEntry.kind, JournalEntry.payload)
        .where(JournalEntry.run_id == run_id, JournalEntry.seq.in_(wanted))
        .order_by(JournalEntry.seq)
    )
