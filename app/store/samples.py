"""The side-by-side generations of a run: at which steps there are some, and those of one step."""

from sqlalchemy import Integer, select
from sqlalchemy.orm import Session

from app.store.tables import JournalEntry


def list_sample_steps(session: Session, run_id: str) -> list[int]:
    """The steps at which samples were drawn, in order."""
    step = JournalEntry.payload["step"].as_integer()
    query = select(step.cast(Integer)).where(JournalEntry.run_id == run_id, JournalEntry.kind == "sample")
    return sorted(set(session.scalars(query)))


def list_samples(session: Session, run_id: str, step: int) -> list[JournalEntry]:
    """The samples of one step by index; of one that was drawn again after a resume, the newer."""
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.kind == "sample")
    query = query.where(JournalEntry.payload["step"].as_integer() == step).order_by(JournalEntry.seq)
    newest = {entry.payload["index"]: entry for entry in session.scalars(query)}
    return [newest[index] for index in sorted(newest)]
