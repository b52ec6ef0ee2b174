"""Runs as they are kept: pages of runs, down-sampled series, the weights file."""

import math

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from app.domain.errors import NotFound
from app.domain.events import AttemptResumed, CheckpointSaved, LogWritten
from app.services import runs as services
from app.store import checkpoints, journal, metrics, runs
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Run
from tests.conftest import Library, make_library
from tests.timing import Clock


@pytest.fixture
def run_id(database: Database, library: Library) -> str:
    with database.writing() as session:
        return services.launch(session, library.user.id, library.recipe()).id


def test_runs_are_paged_newest_first_without_a_double_or_a_gap(database: Database, library: Library) -> None:
    with database.writing() as session:
        made = [services.launch(session, library.user.id, library.recipe()).id for _ in range(7)]
    with database.reading() as session:
        pages, after = [], None
        while page := runs.list_runs(session, library.user.id, after=after, limit=3):
            pages += [run.id for run in page]
            after = page[-1].id
        assert pages == made[::-1]
        assert runs.list_runs(session, library.user.id, state="running") == []
        assert len(runs.list_runs(session, library.user.id, state="queued")) == 7


def test_somebody_elses_private_run_is_not_found(database: Database, run_id: str) -> None:
    with database.writing() as session:
        assert [run.id for run in runs.list_runs(session, "user_eve")] == [run_id]
        assert runs.get_run(session, "user_eve", run_id).owner == "Ada"
        session.get_one(Run, run_id).private = True
    with database.reading() as session:
        assert runs.list_runs(session, "user_eve") == []
        with pytest.raises(NotFound):
            runs.get_run(session, "user_eve", run_id)


def test_a_short_series_comes_whole_with_its_gaps(database: Database, run_id: str) -> None:
    with database.writing() as session:
        metrics.write_metrics(session, run_id, {("loss", 1): 3.0, ("loss", 2): None, ("loss", 3): 1.0, ("grad_norm", 1): 9.0})
    with database.reading() as session:
        assert metrics.list_metrics(session, run_id, ["loss", "unknown"]) == {
            "loss": [(1, 3.0), (2, None), (3, 1.0)],
            "unknown": [],
        }
        assert metrics.metric_keys(session, run_id) == ["grad_norm", "loss"]


def test_a_long_series_keeps_its_peaks_at_their_steps(either_database: Database) -> None:
    library = make_library(either_database)
    values = {("loss", step): math.sin(step / 50) for step in range(1, 3001)}
    values |= {("loss", 1234): 99.0, ("loss", 2345): -99.0}
    with either_database.writing() as session:
        run_id = services.launch(session, library.user.id, library.recipe()).id
        metrics.write_metrics(session, run_id, values)
    with either_database.reading() as session:
        points = metrics.list_metrics(session, run_id, ["loss"], points=100)["loss"]
    assert 50 < len(points) <= 100
    assert points == sorted(points)
    assert {(1234, 99.0), (2345, -99.0)} <= set(points)
    assert all(values["loss", step] == value for step, value in points)


def test_a_value_that_is_written_again_is_replaced_and_later_ones_can_be_dropped(either_database: Database) -> None:
    library = make_library(either_database)
    with either_database.writing() as session:
        run_id = services.launch(session, library.user.id, library.recipe()).id
        metrics.write_metrics(session, run_id, {("loss", 1): 1.0, ("loss", 2): 2.0, ("loss", 3): 3.0})
        metrics.write_metrics(session, run_id, {("loss", 2): 2.5})
        metrics.drop_metrics_after(session, run_id, 2)
        assert metrics.list_metrics(session, run_id, ["loss"])["loss"] == [(1, 1.0), (2, 2.5)]


def test_ten_thousand_values_are_written_in_well_under_a_second(database: Database, run_id: str, clock: Clock) -> None:
    with clock.within(1), database.writing() as session:
        metrics.write_metrics(session, run_id, {("loss", step): 1.0 for step in range(10_000)})


def test_the_weights_of_one_batch_are_read_from_the_runs_file(files: Files) -> None:
    with pytest.raises(NotFound):
        runs.read_weights(files, "run_1", 0)
    files.artifacts_dir("run_1").mkdir(parents=True)
    table = pa.table({"batch": pa.array([0, 0, 1], pa.int32()), "example_id": [4, 4, 2], "weight": [0.9, 0.1, 1.0]})
    parquet.write_table(table, files.artifacts_dir("run_1") / "weights.parquet")
    assert [row["weight"] for row in runs.read_weights(files, "run_1", 0)] == [0.9, 0.1]
    assert runs.read_weights(files, "run_1", 7) == []


def test_the_newest_checkpoint_is_that_of_the_present_line_unless_all_were_removed(either_database: Database) -> None:
    library = make_library(either_database)
    removed = LogWritten(level="info", text=f"{runs.ALL_CHECKPOINTS_REMOVED} (step-000008)")
    first, second = (CheckpointSaved(step=step, name=f"step-{step:06}", size_bytes=1) for step in (5, 8))
    resumed = AttemptResumed(attempt=2, step=5, checkpoint="step-000005")
    said = [[], [first, second], [first, second, resumed], [first, second, removed], [first, removed, second]]
    with either_database.writing() as session:
        made = [services.launch(session, library.user.id, library.recipe()) for _ in said]
        for run, events in zip(made, said, strict=True):
            if events:
                journal.append(session, run, events)
        ids = [run.id for run in made]
    with either_database.reading() as session:
        assert checkpoints.newest_steps(session, ids) == {ids[1]: 8, ids[2]: 5, ids[4]: 8}
        assert checkpoints.newest_steps(session, []) == {}


def test_the_checkpoints_that_runs_keep_are_found_by_one_query(database: Database, library: Library) -> None:
    saved = [CheckpointSaved(step=step, name=f"step-{step:06}", size_bytes=1) for step in (2, 4, 6)]
    resumed = AttemptResumed(attempt=2, step=4, checkpoint="step-000004")
    removed = LogWritten(level="info", text=f"{runs.ALL_CHECKPOINTS_REMOVED} (step-000006)")
    other = LogWritten(level="info", text="Something else")
    said = [[], saved, [*saved, resumed, other], [*saved, removed], [*saved, removed, saved[2]]]
    with database.writing() as session:
        made = [services.launch(session, library.user.id, library.recipe(training={"keep_checkpoints": 2})) for _ in said]
        for run, events in zip(made, said, strict=True):
            if events:
                journal.append(session, run, events)
        kept = checkpoints.list_kept(session, made)
        steps = {run_id: [one.step for one in found] for run_id, found in kept.items()}
        assert steps == {made[1].id: [6, 4], made[2].id: [4, 2], made[4].id: [6]}
