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

HIDDEN = "private"  # the state of runs that one may not see, as lists of variants call it


@dataclass(frozen=True)
class SweepRow:
    """A sweep as lists show it, without its recipes."""

    id: str
    name: str
    created_at: datetime
    stopped_at: datetime | None
    num_variants: int
    request: dict[str, Any]  # SweepRequest
    counts: dict[str, int]  # of its runs that one may see, by state; states without a run are left out
    num_private: int  # of its runs that were made private one by one, so that one may not see them
    owner_id: str
    owner: str
    private: bool

    @property
    def experiment(self) -> str:
        """The experiment that asked for it; empty when none did."""
        return str(self.request.get("experiment", ""))

    @property
    def num_deleted(self) -> int:
        return self.num_variants - sum(self.counts.values()) - self.num_private

    @property
    def state(self) -> SweepState:
        """The sweep's, as far as one may see its runs."""
        return state_of(self.counts, max(1, self.num_variants - self.num_private), stopped=self.stopped_at is not None)


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
    counts = count_states(session, user_id, [row.id for row in rows])
    return [SweepRow(**row._mapping, counts=counts[row.id], num_private=counts[row.id].pop(HIDDEN, 0)) for row in rows]


def describe_sweep(session: Session, user_id: str, sweep: Sweep) -> SweepRow:
    """Return the row of one sweep, as a user may see it."""
    counts = count_states(session, user_id, [sweep.id])[sweep.id]
    return SweepRow(
        sweep.id, sweep.name, sweep.created_at, sweep.stopped_at, len(sweep.variants), sweep.request, counts,
        counts.pop(HIDDEN, 0), sweep.owner_id, sweep.owner, sweep.private,
    )  # fmt: skip


def count_states(session: Session, user_id: str, sweep_ids: Sequence[str]) -> dict[str, Counter[str]]:
    """Return how many runs of each sweep are in each state, as people are told it; HIDDEN counts those the user may not see."""
    seen, is_held = visible_to(user_id, Run), Run.held_at.is_not(None)
    runs = (
        select(Run.sweep_id, Run.state, is_held.label("held"), seen.label("seen")).where(Run.sweep_id.in_(sweep_ids)).subquery()
    )
    counts: dict[str, Counter[str]] = {sweep_id: Counter() for sweep_id in sweep_ids}
    query = select(runs.c.sweep_id, runs.c.state, runs.c.held, runs.c.seen, func.count()).group_by(*runs.c)
    for sweep_id, state, held, is_seen, num_runs in session.execute(query):
        counts[sweep_id][tell_state(state, is_held=held) if is_seen else HIDDEN] += num_runs
    return counts


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
