"""Metric series as they are kept, and read at the size of a chart.

Beside the values lie *spans*: the smallest and the largest value of every 32 and every 1024 steps. A chart of a million steps is
drawn from a thousand of them. A span is kept once a later step is there, so the newest steps of a series have none yet; values
that are written again or dropped take their spans along.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import String, and_, column, delete, func, insert, literal, select, values
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from app.domain.run import RunKind, RunState
from app.store.tables import Metric, MetricSpan, Run, Worker

WIDTHS = (32, 1024)
Point = tuple[int, float | None]
SPEEDS = 20  # newest finished runs that are looked at
Piece = tuple[int, float | None, int | None, float | None, int | None]  # first step; the lowest value, its step; the highest


def last_steps(session: Session, run_id: str, keys: Collection[str]) -> dict[str, int]:
    """Return the last step of each of these series that has one. One look into the index per key, in one query."""
    wanted = values(column("key", String), name="wanted").data([(key,) for key in sorted(keys)]).cte()
    newest = select(func.max(Metric.step)).where(Metric.run_id == run_id, Metric.key == wanted.c.key).scalar_subquery()
    query = select(wanted.c.key, newest)
    return {key: step for key, step in session.execute(query) if step is not None}


def newest_values(session: Session, run_ids: Sequence[str], keys: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the value at the last step of each of these series, by run and key. One query."""
    last = (
        select(Metric.run_id, Metric.key, func.max(Metric.step).label("step"))
        .where(Metric.run_id.in_(run_ids), Metric.key.in_(keys))
        .group_by(Metric.run_id, Metric.key)
        .subquery()
    )
    same = and_(Metric.run_id == last.c.run_id, Metric.key == last.c.key, Metric.step == last.c.step)
    values: dict[str, dict[str, float | None]] = defaultdict(dict)
    for run_id, key, value in session.execute(select(Metric.run_id, Metric.key, Metric.value).join(last, same)):
        values[run_id][key] = value
    return values


def keep(session: Session, run_id: str, known: Mapping[str, int], written: Iterable[tuple[str, int]]) -> None:
    """After the values at these (key, step) were written: keep the spans that they completed or changed.

    `known` is the last step of each series before.
    """
    reach: dict[str, tuple[int, int]] = {}
    for key, step in written:
        first, last = reach.get(key, (step, step))
        reach[key] = min(first, step), max(last, step)
    for key, (first, last) in reach.items():
        before = known.get(key, first - 1)
        begin, end = min(first, known.get(key, first)), max(last, before)
        for width in WIDTHS:
            from_span, to_span = begin // width, end // width
            if first <= before or from_span < to_span:
                _forget(session, run_id, MetricSpan.key == key, width, from_span)
            if from_span < to_span:
                _fill(session, run_id, key, width, from_span, to_span)


def forget_after(session: Session, run_id: str, step: int) -> None:
    """The values of later steps are gone: so are the spans that held any."""
    for width in WIDTHS:
        _forget(session, run_id, MetricSpan.run_id == run_id, width, step // width)


def _forget(session: Session, run_id: str, which: Any, width: int, from_span: int) -> None:
    mine = and_(MetricSpan.run_id == run_id, which, MetricSpan.width == width, MetricSpan.span >= from_span)
    session.execute(delete(MetricSpan).where(mine).execution_options(synchronize_session=False))


def _fill(session: Session, run_id: str, key: str, width: int, from_span: int, to_span: int) -> None:
    """Make the spans from `from_span` to before `to_span` out of the values."""
    mine = and_(Metric.run_id == run_id, Metric.key == key)
    span = Metric.step // width
    groups = (
        select(
            span.label("span"),
            func.min(Metric.step).label("first_step"),
            func.min(Metric.value).label("low"),
            func.max(Metric.value).label("high"),
        )
        .where(mine, Metric.step >= from_span * width, Metric.step < to_span * width)
        .group_by(span)
        .subquery()
    )
    inside = and_(mine, Metric.step >= groups.c.span * width, Metric.step < (groups.c.span + 1) * width)
    at_low = select(func.min(Metric.step)).where(inside, Metric.value == groups.c.low).scalar_subquery()
    at_high = select(func.min(Metric.step)).where(inside, Metric.value == groups.c.high).scalar_subquery()
    names = ["run_id", "key", "width", "span", "first_step", "low", "low_step", "high", "high_step"]
    made = select(
        literal(run_id), literal(key), literal(width), groups.c.span, groups.c.first_step, groups.c.low, at_low,
        groups.c.high, at_high,
    )  # fmt: skip
    session.execute(insert(MetricSpan).from_select(names, made))


def thin_out(session: Session, run_id: str, key: str, first: int, last: int, num_ranges: int) -> list[Point]:
    """Return the smallest and the largest value of each of at most `num_ranges` equal ranges of steps, at their steps."""
    for width in reversed(WIDTHS):
        origin = first - first % width
        steps = -(-(last - origin + 1) // num_ranges)
        if steps >= 2 * width:  # ranges are whole spans; wider steps than asked for cost at most a third of the points
            steps = -(-steps // width) * width
            return list(_extremes(_pieces(session, run_id, key, width), origin, steps))
    return list(_extremes(_values(session, run_id, key, first), first, -(-(last - first + 1) // num_ranges)))


def _pieces(session: Session, run_id: str, key: str, width: int) -> Iterator[Piece]:
    """Yield the kept spans, then the values after them."""
    kept = MetricSpan
    query = select(kept.first_step, kept.low, kept.low_step, kept.high, kept.high_step, kept.span)
    query = query.where(kept.run_id == run_id, kept.key == key, kept.width == width).order_by(kept.span)
    end = 0
    for first_step, low, low_step, high, high_step, span in session.execute(query):
        yield first_step, low, low_step, high, high_step
        end = (span + 1) * width
    yield from _values(session, run_id, key, end)


def _values(session: Session, run_id: str, key: str, from_step: int) -> Iterator[Piece]:
    query = select(Metric.step, Metric.value).where(Metric.run_id == run_id, Metric.key == key, Metric.step >= from_step)
    for step, value in session.execute(query.order_by(Metric.step)):
        yield step, value, step, value, step


def _extremes(pieces: Iterable[Piece], origin: int, steps: int) -> Iterator[Point]:
    """One or two points for each range of `steps` steps from `origin` on; a gap where it holds no finite value at all."""
    place = -1
    found: Piece = (0, None, None, None, None)
    for piece in pieces:
        here = (piece[0] - origin) // steps
        if here != place:
            if place >= 0:
                yield from _points(found)
            place, found = here, piece
        else:
            found = _merge(found, piece)
    if place >= 0:
        yield from _points(found)


def _merge(one: Piece, other: Piece) -> Piece:
    """Both pieces as one; of equal values the earlier stays."""
    first, low, low_step, high, high_step = one
    if other[1] is not None and (low is None or other[1] < low):
        low, low_step = other[1], other[2]
    if other[3] is not None and (high is None or other[3] > high):
        high, high_step = other[3], other[4]
    return first, low, low_step, high, high_step


def _points(piece: Piece) -> list[Point]:
    first, low, low_step, high, high_step = piece
    if low is None or low_step is None or high_step is None:
        return [(first, None)]
    return sorted({(low_step, low), (high_step, high)}, key=lambda point: point[0])


def metric_keys(session: Session, run_id: str) -> list[str]:
    """Return the keys of the run's series, sorted. One look into the index per key, however long the series are."""
    mine = select(func.min(Metric.key)).where(Metric.run_id == run_id)
    found = mine.cte("found", recursive=True)
    key = found.c[0]
    found = found.union_all(select(mine.where(Metric.key > key).scalar_subquery()).where(key.is_not(None)))
    return [key for key in session.scalars(select(found.c[0])) if key is not None]


def list_metrics(session: Session, run_id: str, keys: Sequence[str], points: int = 500) -> dict[str, list[Point]]:
    """Return the series of these keys, in step order, each of at most `points` points; unknown keys give an empty list.

    A longer series is cut into at most points / 2 equal ranges of steps, of which the smallest and the largest value stay,
    at their own steps, so that no peak is lost. A value that was not finite is None; in a longer series it stays where a
    whole range has nothing else.
    """
    series: dict[str, list[Point]] = {}
    for key in keys:
        query = select(Metric.step, Metric.value).where(Metric.run_id == run_id, Metric.key == key).order_by(Metric.step)
        found: list[Point] = [(step, value) for step, value in session.execute(query.limit(points + 1))]
        if len(found) > points:
            last = last_steps(session, run_id, [key])[key]
            found = thin_out(session, run_id, key, found[0][0], last, max(1, points // 2))
        series[key] = found
    return series


def write_metrics(session: Session, run_id: str, values: Mapping[tuple[str, int], float | None]) -> None:
    """Write values by (key, step) in one statement; one that is there already is replaced."""
    if not values:
        return
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    inserted = sqlite.insert(Metric) if is_sqlite else postgresql.insert(Metric)
    statement = inserted.on_conflict_do_update(index_elements=["run_id", "key", "step"], set_={"value": inserted.excluded.value})
    rows = [{"run_id": run_id, "key": key, "step": step, "value": value} for (key, step), value in values.items()]
    known = last_steps(session, run_id, {key for key, _ in values})
    session.execute(statement, rows)
    keep(session, run_id, known, values)


def drop_metrics_after(session: Session, run_id: str, step: int) -> None:
    """Forget values of later steps: a resumed attempt makes them again."""
    session.execute(delete(Metric).where(Metric.run_id == run_id, Metric.step > step))
    forget_after(session, run_id, step)


def list_clock(session: Session, run_id: str, points: int = 400) -> list[tuple[int, float, float]]:
    """Return (step, tokens trained on until then, seconds trained until then), about `points` of them, the newest among them."""
    rate = aliased(Metric)
    same = and_(rate.run_id == Metric.run_id, rate.step == Metric.step, rate.key == "tokens_per_second")
    mine = and_(Metric.run_id == run_id, Metric.key == "step_seconds")
    summed = (
        select(
            Metric.step,
            func.sum(Metric.value * rate.value).over(order_by=Metric.step).label("tokens"),
            func.sum(Metric.value).over(order_by=Metric.step).label("seconds"),
            func.row_number().over(order_by=Metric.step.desc()).label("place"),
            func.count().over().label("num"),
        )
        .join(rate, same)
        .where(mine)
        .subquery()
    )
    kept = (summed.c.place - 1) % (summed.c.num // points + 1) == 0
    rows = session.execute(select(summed.c.step, summed.c.tokens, summed.c.seconds).where(kept).order_by(summed.c.step))
    return [(step, tokens or 0.0, seconds or 0.0) for step, tokens, seconds in rows]


@dataclass(frozen=True)
class MeasuredSpeed:
    """The mean seconds of a step of a finished run, and the device it ran on as far as that is known."""

    run_id: str
    name: str
    recipe: dict[str, Any]
    seconds_per_step: float
    device: str


def list_speeds(session: Session, owner_id: str, policy_id: str) -> list[MeasuredSpeed]:
    """Return the speeds of the owner's newest finished runs of this policy, newest first."""
    mine = (Run.owner_id == owner_id, Run.policy_id == policy_id, Run.kind == RunKind.TRAINING.value)
    runs = list(session.scalars(select(Run).where(*mine, Run.state == RunState.SUCCEEDED).order_by(Run.id.desc()).limit(SPEEDS)))
    query = select(Metric.run_id, func.avg(Metric.value)).group_by(Metric.run_id)
    means = session.execute(query.where(Metric.run_id.in_([run.id for run in runs]), Metric.key == "step_seconds"))
    seconds = {run_id: mean for run_id, mean in means if mean}
    workers = {run.worker_id: session.get(Worker, run.worker_id) for run in runs if run.worker_id}
    return [
        MeasuredSpeed(run.id, run.name, run.recipe or {}, seconds[run.id], device_of(workers.get(run.worker_id or "")))
        for run in runs
        if run.id in seconds
    ]


def device_of(worker: Worker | None) -> str:
    """Return what a worker trains on."""
    if worker is None:
        return ""
    return str(worker.devices[0].get("name", "")) if worker.devices else "a CPU"
