"""Spans of a series: a thinned-out chart is, to the bit, what a plain look at all values gives, whatever was written when."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from app.services import runs as services
from app.store import metrics
from app.store.database import Database
from app.store.tables import MetricSpan
from tests.conftest import make_library

Series = dict[int, float | None]


@pytest.fixture
def run_id(either_database: Database) -> str:
    library = make_library(either_database)
    with either_database.writing() as session:
        return services.launch(session, library.user.id, library.recipe()).id


def plainly(series: Series, points: int) -> list[tuple[int, float | None]]:
    """What list_metrics promises, from all values at once."""
    if len(series) <= points:
        return sorted(series.items(), key=lambda point: point[0])
    first, last, num_ranges = min(series), max(series), points // 2
    origin, width = first, -(-(last - first + 1) // num_ranges)
    for unit in (1024, 32):
        begin = first - first % unit
        wide = -(-(last - begin + 1) // num_ranges)
        if wide >= 2 * unit:
            origin, width = begin, -(-wide // unit) * unit
            break
    kept: list[tuple[int, float | None]] = []
    for place in range(num_ranges):
        inside = [step for step in sorted(series) if place == (step - origin) // width]
        finite = [step for step in inside if series[step] is not None]
        if inside and not finite:
            kept.append((inside[0], None))
        elif finite:
            low, high = min(finite, key=lambda step: series[step]), max(finite, key=lambda step: series[step])
            kept += [(step, series[step]) for step in sorted({low, high})]
    return kept


VALUES = st.one_of(st.none(), st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324]), st.floats(-10, 10))
STEPS = st.one_of(st.integers(0, 200), st.integers(0, 6000))
WRITTEN = st.tuples(st.just("write"), STEPS, st.integers(1, 7), st.lists(VALUES, min_size=1, max_size=150))
DROPPED = st.tuples(st.just("drop"), STEPS, st.just(0), st.just([]))
ACTIONS = st.one_of(WRITTEN, WRITTEN, DROPPED)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.lists(st.one_of(WRITTEN, WRITTEN, DROPPED), min_size=1, max_size=8), points=st.sampled_from([2, 4, 10, 50, 500])
)
def test_a_thinned_out_series_is_what_all_values_give_whatever_was_written_and_dropped(
    either_database: Database, run_id: str, actions: list, points: int
) -> None:
    series: Series = {}
    with either_database.writing() as session:
        metrics.drop_metrics_after(session, run_id, -1)
        for what, step, stride, numbers in actions:
            if what == "drop":
                metrics.drop_metrics_after(session, run_id, step)
                series = {at: value for at, value in series.items() if at <= step}
            else:
                written = {step + place * stride: value for place, value in enumerate(numbers)}
                metrics.write_metrics(session, run_id, {("loss", at): value for at, value in written.items()})
                series |= written
    with either_database.reading() as session:
        assert metrics.list_metrics(session, run_id, ["loss"], points=points)["loss"] == plainly(series, points)


def test_a_long_series_written_step_by_step_is_drawn_from_few_rows(either_database: Database, run_id: str) -> None:
    series: Series = {step: None if step % 700 < 40 else float((step * 7919) % 1009) for step in range(1, 6_001)}
    for first in range(1, 6_001, 250):
        with either_database.writing() as session:
            metrics.write_metrics(session, run_id, {("loss", step): series[step] for step in range(first, first + 250)})
    with either_database.reading() as session:
        for points in (4, 10, 100, 500, 5000):
            assert metrics.list_metrics(session, run_id, ["loss"], points=points)["loss"] == plainly(series, points)
        kept = dict(session.execute(select(MetricSpan.width, func.count()).group_by(MetricSpan.width)).all())
    assert kept == {32: 6_000 // 32, 1024: 6_000 // 1024}


def test_series_of_an_earlier_version_get_their_spans_when_they_are_migrated(either_database: Database, run_id: str) -> None:
    series: Series = {step: None if step % 90 < 33 else float((step * 7919) % 1009) for step in range(5, 4000)}
    with either_database.writing() as session:
        metrics.write_metrics(session, run_id, {("loss", step): value for step, value in series.items()})
    with either_database.reading() as session:
        columns = MetricSpan.__table__.columns
        before = session.execute(select(*columns).order_by(MetricSpan.width, MetricSpan.span)).all()
    with either_database.writing() as session:
        session.execute(text("DELETE FROM metric_spans"))
        for width in metrics.WIDTHS:
            session.execute(text(migration().FILL.format(width=width)))
    with either_database.reading() as session:
        assert session.execute(select(*columns).order_by(MetricSpan.width, MetricSpan.span)).all() == before


def migration():
    import importlib.util

    from app.store.migrations import FOLDER

    spec = importlib.util.spec_from_file_location("migration", FOLDER / "versions" / "20261127_keep_spans_of_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
