"""The weight histograms of a run over its steps, few enough to draw."""

from sqlalchemy import Integer, column, func, select, values
from sqlalchemy.orm import Session

from app.store.tables import JournalEntry

Histogram = tuple[int, list[int]]  # step, counts per bin of app.domain.metrics.WEIGHT_EDGES


def list_histograms(session: Session, run_id: str, columns: int = 200) -> list[Histogram]:
    """At most about `columns` histograms, evenly spread over the journal, the newest always among them.

    What an interrupted attempt logged after the checkpoint that the next one resumed from is left out.
    """
    resumes = select(JournalEntry.seq).where(JournalEntry.run_id == run_id, JournalEntry.kind == "resume")
    seqs = [*_spread(session, run_id, columns), *session.scalars(resumes)]
    query = select(JournalEntry.kind, JournalEntry.payload)
    query = query.where(JournalEntry.run_id == run_id, JournalEntry.seq.in_(seqs)).order_by(JournalEntry.seq)
    found: list[Histogram] = []
    for kind, payload in session.execute(query):
        step = int(payload["step"])
        while found and found[-1][0] >= step + (kind == "resume"):
            found.pop()
        if kind == "step" and payload["histogram"]:
            found.append((step, payload["histogram"]))
    return found


def _spread(session: Session, run_id: str, columns: int) -> list[int]:
    """The seqs of all step events, or of the newest one in each of `columns` equal parts of the journal that has one.

    A look into the index per part: the other events of a long run are never touched.
    """
    mine = (JournalEntry.run_id == run_id, JournalEntry.kind == "step")
    few = list(session.scalars(select(JournalEntry.seq).where(*mine).order_by(JournalEntry.seq).limit(columns + 1)))
    if len(few) <= columns:
        return few
    first, last = few[0], session.scalar(select(func.max(JournalEntry.seq)).where(*mine)) or 0
    ends = [last - place * (last - first) // columns for place in range(columns)]
    part = values(column("last", Integer), name="part").data([(end,) for end in ends]).cte()
    newest = select(func.max(JournalEntry.seq)).where(*mine, JournalEntry.seq <= part.c.last).scalar_subquery()
    return sorted(set(session.scalars(select(newest).select_from(part))))
