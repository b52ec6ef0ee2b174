"""The line: the queued runs in the order in which they begin.

First the highest priority. Among runs of one priority, first those of the owner who has the fewest running: each queued run
counts as if the owner's runs before it were running already, so that two workers that begin at once take runs of two owners,
and the line as a whole is what happens when workers become free one by one. Among equals the smaller `place`: seconds since
1970, the time of queueing unless the run was moved.
"""

from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.domain.run import RunKind, RunState
from app.store.tables import Run, Worker


def num_processes(run: Any = Run) -> ColumnElement[int]:
    """How many places of a worker the run takes; scores are made by one process."""
    return case((run.kind == RunKind.SCORING, 1), else_=run.num_processes)


def may_begin(run: Any, worker_id: str) -> ColumnElement[bool]:
    """Whether this worker may begin the run when it is its turn."""
    return and_(
        run.state == RunState.QUEUED,
        run.held_at.is_(None),
        or_(run.wanted_worker.is_(None), run.wanted_worker == worker_id),
        or_(run.avoided_worker.is_(None), run.avoided_worker != worker_id),
    )


def is_working(worker_id: str) -> ColumnElement[bool]:
    """Whether the worker may begin anything: it may unless it is paused."""
    return ~select(Worker.id).where(Worker.id == worker_id, Worker.paused_at.is_not(None)).exists()


def in_order(*conditions: ColumnElement[bool]) -> Subquery:
    """Ids of queued runs that fulfil the conditions, with what orders them: priority, share, place."""
    num_running = (
        select(Run.owner_id, func.count().label("num"))
        .where(Run.state == RunState.RUNNING)
        .group_by(Run.owner_id)
        .subquery("running")
    )
    before = func.row_number().over(partition_by=Run.owner_id, order_by=(Run.priority.desc(), Run.place, Run.id))
    share = func.coalesce(num_running.c.num, 0) + before
    return (
        select(Run.id, Run.priority, share.label("share"), Run.place)
        .outerjoin(num_running, num_running.c.owner_id == Run.owner_id)
        .where(Run.state == RunState.QUEUED, *conditions)
        .subquery("line")
    )


def order_of(line: Subquery) -> tuple[ColumnElement[Any], ...]:
    """The columns that the line is sorted by."""
    return line.c.priority.desc(), line.c.share, line.c.place, line.c.id


def first_in_line(worker_id: str, *, num_places: int, more_than: int) -> Select[str]:
    """The id of the run that is next for this worker, locked; runs that another worker is just taking are passed over."""
    size = num_processes(Run)
    line = in_order(may_begin(Run, worker_id), size <= num_places, size > more_than)
    waiting = aliased(Run)
    query = select(waiting.id).join(line, line.c.id == waiting.id).where(waiting.state == RunState.QUEUED, is_working(worker_id))
    return query.order_by(*order_of(line)).limit(1).with_for_update(skip_locked=True, of=waiting)


def has_next(session: Session, worker_id: str) -> bool:
    """Whether any run waits that this worker might begin."""
    query = select(Run.id).where(may_begin(Run, worker_id), is_working(worker_id)).limit(1)
    return session.scalar(query) is not None
