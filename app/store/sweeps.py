"""Sweeps as they are kept: rows, how many of their runs are in which state, and their runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.domain.run import tell_state
from app.domain.sweep import SweepState, state_of
from app.store.sharing import get_visible, visible_to
from app.store.tables import Run, Sweep


@dataclass(frozen=True)
class SweepRow:
    """A sweep as lists show it, without its recipes."""

    id: str
    name: str
    created_at: datetime
    stopped_at: datetime | None
    num_variants: int
    request: dict[str, Any]  # SweepRequest
    counts: dict[str, int]  # of its runs, by state; states without a run are left out
    owner_id: str
    owner: str
    private: bool

    @property
    def experiment(self) -> str:
        """The experiment that asked for it; empty when none did."""
        return str(self.request.get("experiment", ""))

    @property
    def num_deleted(self) -> int:
        return self.num_variants - sum(self.counts.values())

    @property
    def state(self) -> SweepState:
        return state_of(self.counts, self.num_variants, stopped=self.stopped_at is not None)


def get_sweep(session: Session, user_id: str, sweep_id: str) -> Sweep:
    """Return a sweep that the user may see. Raises NotFound."""
    return get_visible(session, Sweep, user_id, sweep_id)


def lock_sweep(session: Session, sweep_id: str) -> Sweep:
    """Return the sweep as it is now, locked until the transaction ends: nobody else adds or resumes runs meanwhile."""
    sweep = session.get(Sweep, sweep_id, with_for_update=True, populate_existing=True)
    if sweep is None:
        raise NotFound(f"There is no sweep {sweep_id!r}.")
    return sweep


def list_sweeps(
    session: Session, user_id: str, *, mine: bool = False, experiment: str = "", after: str | None = None, limit: int = 50
) -> list[SweepRow]:
    """Return the sweeps that the user may see, or the user's own, newest first; `after` is the last id of the page before.

    Few queries, however many. `experiment`: only those that ask this one's question.
    """
    of_row = (Sweep.id, Sweep.name, Sweep.created_at, Sweep.stopped_at, Sweep.request, Sweep.owner_id, Sweep.owner, Sweep.private)
    query = select(*of_row, _num_variants(session).label("num_variants"))
    query = query.where(visible_to(user_id, Sweep, mine=mine))
    if experiment:
        query = query.where(Sweep.request["experiment"].as_string() == experiment)
    if after is not None:
        query = query.where(Sweep.id < after)
    rows = session.execute(query.order_by(Sweep.id.desc()).limit(limit)).all()
    counts = count_states(session, [row.id for row in rows])
    return [SweepRow(**row._mapping, counts=counts.get(row.id, {})) for row in rows]


def describe_sweep(session: Session, sweep: Sweep) -> SweepRow:
    """Return the row of one sweep."""
    counts = count_states(session, [sweep.id]).get(sweep.id, {})
    return SweepRow(
        sweep.id, sweep.name, sweep.created_at, sweep.stopped_at, len(sweep.variants), sweep.request, counts, sweep.owner_id,
        sweep.owner, sweep.private,
    )  # fmt: skip


def count_states(session: Session, sweep_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return how many runs of each sweep are in each state, as people are told it."""
    is_held = Run.held_at.is_not(None)
    query = select(Run.sweep_id, Run.state, is_held, func.count()).where(Run.sweep_id.in_(sweep_ids))
    counts: dict[str, Counter[str]] = {}
    for sweep_id, state, held, num_runs in session.execute(query.group_by(Run.sweep_id, Run.state, is_held)):
        counts.setdefault(str(sweep_id), Counter())[tell_state(state, is_held=held)] += num_runs
    return {sweep_id: dict(found) for sweep_id, found in counts.items()}


def list_runs(session: Session, sweep_id: str) -> dict[int, Run]:
    """Return the runs there are, by their variant; where one was made anew, the newest."""
    query = select(Run).where(Run.sweep_id == sweep_id).order_by(Run.id)
    return {run.variant: run for run in session.scalars(query) if run.variant is not None}


def list_hidden(session: Session, user_id: str, sweep_id: str) -> set[str]:
    """Return the ids of those runs of a sweep that were made private one by one, so that the user may not see them."""
    mine = Run.sweep_id == sweep_id
    seen = select(Run.id).where(mine, visible_to(user_id, Run))
    return set(session.scalars(select(Run.id).where(mine, Run.id.not_in(seen))))


def _num_variants(session: Session) -> ColumnElement[int]:
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    length = func.json_array_length if is_sqlite else func.jsonb_array_length
    counted: ColumnElement[int] = length(Sweep.variants)
    return counted
