"""The journal: the one record of a run. Each event has the run's own `seq`, dense from 1, whoever writes it.

A first paint shows the journal up to N; the live stream goes on at N + 1. Samples and weight histograms are read from it too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, column, func, insert, select, union_all, update, values
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from app.domain.errors import NotFound
from app.domain.events import Event
from app.store import database
from app.store.tables import JournalEntry, Run


@dataclass(frozen=True)
class Note:
    """An event on its way into the journal."""

    kind: str
    payload: dict[str, Any]
    at: datetime


def append(session: Session, run: Run, events: Sequence[Event]) -> None:
    """Write events at the end of the run's journal and ring its bell after the commit.

    The seq is taken by one UPDATE of the run's row, whose lock makes other writers wait: no gaps, no doubles.
    """
    session.flush()
    at = database.now(session)
    notes = [Note(event.model_dump()["kind"], to_payload(event), at) for event in events]
    statement = update(Run).where(Run.id == run.id).values(last_seq=Run.last_seq + len(notes)).returning(Run.last_seq)
    last_seq = session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none()
    if last_seq is None:
        raise NotFound(f"There is no run {run.id}.")
    set_committed_value(run, "last_seq", last_seq)
    write_notes(session, run.id, last_seq, notes)


def begin(session: Session, run: Run, event: Event, at: datetime) -> None:
    """Write the first event of a new run, whose row nobody else knows yet, together with its row."""
    run.last_seq = 1
    session.add(run)
    session.flush()
    write_notes(session, run.id, 1, [Note(event.model_dump()["kind"], to_payload(event), at)])


def write_notes(session: Session, run_id: str, last_seq: int, notes: Sequence[Note]) -> None:
    """Write notes whose places, the last of them `last_seq`, the caller has taken on the run's row in this transaction."""
    if not notes:
        return
    first = last_seq - len(notes) + 1
    rows = [
        {"run_id": run_id, "seq": first + place, "kind": note.kind, "payload": note.payload, "at": note.at}
        for place, note in enumerate(notes)
    ]
    session.execute(insert(JournalEntry), rows)
    session.info["bell"].ring_after_commit(session, run_id)


def to_payload(event: Event) -> dict[str, Any]:
    """Return the event without its kind, JSON-ready."""
    return event.model_dump(mode="json", exclude={"kind"})


def read(
    session: Session, run_id: str, after: int = 0, limit: int = 500, kinds: Collection[str] | None = None
) -> list[JournalEntry]:
    """Return the next entries after seq `after`, in order; only these `kinds` where given."""
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.seq > after)
    if kinds is not None:
        query = query.where(JournalEntry.kind.in_(kinds))
    return list(session.scalars(query.order_by(JournalEntry.seq).limit(limit)))


def latest(session: Session, run_id: str, kind: str) -> JournalEntry | None:
    """Return the newest entry of this kind, if there is one."""
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.kind == kind)
    return session.scalar(query.order_by(JournalEntry.seq.desc()).limit(1))


def read_last(session: Session, run_id: str, kinds: Collection[str], limit: int) -> list[JournalEntry]:
    """Return the newest `limit` entries of these kinds, oldest first.

    Each kind is looked up by itself: for all together a database would walk through the other kinds of a long run.
    """
    newest = [
        select(JournalEntry.seq)
        .where(JournalEntry.run_id == run_id, JournalEntry.kind == kind)
        .order_by(JournalEntry.seq.desc())
        .limit(limit)
        .subquery()
        for kind in sorted(kinds)
    ]
    seqs = union_all(*(select(query_of_kind.c.seq) for query_of_kind in newest))
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.seq.in_(seqs))
    return list(session.scalars(query.order_by(JournalEntry.seq.desc()).limit(limit)))[::-1]


def find_step(session: Session, run_id: str, step: int) -> JournalEntry | None:
    """Return the newest `step` entry of this optimizer step; None before it is logged."""
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.kind == "step")
    query = query.where(JournalEntry.payload["step"].as_integer() == step)
    return session.scalar(query.order_by(JournalEntry.seq.desc()).limit(1))


def list_sample_steps(session: Session, run_id: str) -> list[int]:
    """Return the steps at which samples were drawn, in order."""
    step = JournalEntry.payload["step"].as_integer()
    query = select(step.cast(Integer)).where(JournalEntry.run_id == run_id, JournalEntry.kind == "sample")
    return sorted(set(session.scalars(query)))


def list_samples(session: Session, run_id: str, step: int) -> list[JournalEntry]:
    """Return the samples of one step by index; of one that was drawn again after a resume, the newer."""
    query = select(JournalEntry).where(JournalEntry.run_id == run_id, JournalEntry.kind == "sample")
    query = query.where(JournalEntry.payload["step"].as_integer() == step).order_by(JournalEntry.seq)
    newest = {entry.payload["index"]: entry for entry in session.scalars(query)}
    return [newest[index] for index in sorted(newest)]


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
    """Return the seqs of all step events, or of the newest one in each of `columns` equal parts of the journal that has one.

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
