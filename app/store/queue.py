"""The queue: the runs that wait, in the order in which they begin.

First the highest priority. Among runs of one priority, first those of the owner who has the fewest running: each queued run
counts as if the owner's runs before it were running already, so that two workers that begin at once take runs of two owners,
and the queue as a whole is what happens when workers become free one by one. Among equals the smaller `place`: seconds since
1970, the time of queueing unless the run was moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, and_, case, func, literal, literal_column, or_, select, union_all, update
from sqlalchemy.orm import Session, aliased

from app.domain.run import RunKind, RunState
from app.store.tables import Run, User, Worker

NUM_AT_ONCE = 8  # how many workers may begin runs of one owner in the same instant without missing one; SQLite has one writer
QUEUED: ColumnElement[str] = literal_column(f"'{RunState.QUEUED}'")  # not a parameter, so that the index of waiting runs is used


def num_processes(run: Any = Run) -> ColumnElement[int]:
    """Return how many places of a worker the run takes; scores and answers are made by one process."""
    return case((run.kind == RunKind.TRAINING, run.num_processes), else_=1)


def may_begin(run: Any, worker_id: str) -> ColumnElement[bool]:
    """Return whether this worker may begin the run when it is its turn."""
    return and_(
        run.state == QUEUED,
        run.held_at.is_(None),
        or_(run.wanted_worker.is_(None), run.wanted_worker == worker_id),
        or_(run.avoided_worker.is_(None), run.avoided_worker != worker_id),
    )


def is_working(worker_id: str) -> ColumnElement[bool]:
    """Return whether the worker may begin anything: it may unless it is paused."""
    return ~select(Worker.id).where(Worker.id == worker_id, Worker.paused_at.is_not(None)).exists()


def running_of_owners() -> Subquery:
    """Return how many runs of each owner are running."""
    query = select(Run.owner_id, func.count().label("num")).where(Run.state == RunState.RUNNING).group_by(Run.owner_id)
    return query.subquery("running")


def first_in_line(session: Session, worker_id: str, *, num_places: int, more_than: int) -> Select[str]:
    """Return the id of the run that is next for this worker, locked; runs that another worker is just taking are passed over.

    Only the first few of each owner are looked at, by the index, so that a long queue costs nothing.
    """
    num_at_once = 1 if session.get_bind().dialect.name == "sqlite" else NUM_AT_ONCE
    mine, waiting, running = aliased(Run), aliased(Run), running_of_owners()
    size = num_processes(mine)
    fitting = (mine.owner_id == User.id, may_begin(mine, worker_id), size <= num_places, size > more_than)
    own = select(mine.id).where(*fitting).order_by(mine.priority.desc(), mine.place, mine.id).limit(1).correlate(User)
    heads = union_all(
        *(
            select(User.id.label("owner_id"), own.offset(num).scalar_subquery().label("run_id"), literal(num).label("num_before"))
            for num in range(num_at_once)
        )
    ).subquery("heads")
    share = func.coalesce(running.c.num, 0) + heads.c.num_before
    query = select(waiting.id).join(heads, heads.c.run_id == waiting.id)
    query = query.outerjoin(running, running.c.owner_id == waiting.owner_id)
    query = query.where(waiting.state == RunState.QUEUED, is_working(worker_id))
    query = query.order_by(waiting.priority.desc(), share, waiting.place, waiting.id)
    return query.limit(1).with_for_update(skip_locked=True, of=waiting)


def in_order() -> Subquery:
    """Return all queued runs that are not held: id, owner_id and position, from 1."""
    running = running_of_owners()
    num_before = func.row_number().over(partition_by=Run.owner_id, order_by=(Run.priority.desc(), Run.place, Run.id))
    share = (func.coalesce(running.c.num, 0) + num_before).label("share")
    query = select(Run.id, Run.owner_id, Run.priority, Run.place, share)
    query = query.outerjoin(running, running.c.owner_id == Run.owner_id)
    waiting = query.where(Run.state == QUEUED, Run.held_at.is_(None)).subquery("shares")
    position = func.row_number().over(order_by=(waiting.c.priority.desc(), waiting.c.share, waiting.c.place, waiting.c.id))
    return select(waiting.c.id, waiting.c.owner_id, position.label("position")).subquery("queue")


def has_next(session: Session, worker_id: str) -> bool:
    """Return whether any run waits that this worker might begin."""
    query = select(Run.id).where(may_begin(Run, worker_id), is_working(worker_id)).limit(1)
    return session.scalar(query) is not None


@dataclass(frozen=True)
class Queued:
    """A queued run and its position from 1; None for one that is held."""

    run: Run
    position: int | None


def list_queue(session: Session, *, owner_id: str | None = None, after: int = 0, limit: int = 50) -> list[Queued]:
    """Return the queued runs that are not held, in the order in which they begin, from the position behind `after`.

    With an owner only those, at the positions they have among all.
    """
    queue = in_order()
    mine = [queue.c.owner_id == owner_id] if owner_id is not None else []
    page = select(queue.c.id, queue.c.position).where(queue.c.position > after, *mine).order_by(queue.c.position).limit(limit)
    shown = page.subquery("shown")
    rows = session.execute(select(Run, shown.c.position).join(shown, shown.c.id == Run.id).order_by(shown.c.position))
    return [Queued(run, position) for run, position in rows]


def list_held(session: Session, *, owner_id: str | None = None, limit: int = 50) -> list[Queued]:
    """Return the queued runs that are held, by place."""
    query = select(Run).where(Run.state == RunState.QUEUED, Run.held_at.is_not(None))
    if owner_id is not None:
        query = query.where(Run.owner_id == owner_id)
    return [Queued(run, None) for run in session.scalars(query.order_by(Run.priority.desc(), Run.place, Run.id).limit(limit))]


def count_queue(session: Session) -> int:
    """Return how many runs wait to begin, held ones apart."""
    return session.scalar(select(func.count()).where(Run.state == RunState.QUEUED, Run.held_at.is_(None))) or 0


def find_position(session: Session, run: Run) -> int | None:
    """Return the run's position in the queue, from 1; None when it isn't queued or is held."""
    if run.state != RunState.QUEUED or run.held_at is not None:
        return None
    queue = in_order()
    return session.scalar(select(queue.c.position).where(queue.c.id == run.id))


def lock_places(session: Session, run: Run, *, owner_id: str | None) -> dict[str, float]:
    """Return the places of the queued runs of the same priority, by id and in their order, locked; with an owner only those."""
    query = select(Run.id, Run.place).where(Run.state == QUEUED, Run.priority == run.priority)
    if owner_id is not None:
        query = query.where(Run.owner_id == owner_id)
    # Locked in the order of their ids, so that two who move at once never wait for each other.
    found = session.execute(query.order_by(Run.id).with_for_update()).all()
    return {row.id: row.place for row in sorted(found, key=lambda row: (row.place, row.id))}


def give_places(session: Session, places: Mapping[str, float], order: Sequence[str]) -> None:
    """Give the places, smallest first, to the runs in this order; only those whose place changes are written."""
    moved = [(run_id, place) for run_id, place in zip(order, places.values(), strict=True) if places[run_id] != place]
    if moved:
        session.execute(update(Run), [{"id": run_id, "place": place} for run_id, place in moved])
