"""What pages and streams ask of the database again and again finds its rows by an index: SQLite's plans say so."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.services import attempts
from app.services import runs as services
from app.store import journal, metrics, runs, sweeps
from app.store.database import Database
from app.store.overview.run_list import RunQuery, RunSort, find_runs
from tests.conftest import Library

LOG_KINDS = ("state", "log", "resume", "checkpoint")
LARGE = ("runs", "journal", "metrics", "metric_spans")


@pytest.fixture
def run_id(database: Database, library: Library) -> str:
    """A run with a series that is too long to be drawn whole."""
    with database.writing() as session:
        run = services.launch(session, library.user.id, library.recipe())
        metrics.write_metrics(session, run.id, {("loss", step): 1.0 for step in range(3000)})
    return run.id


def plans_of(database: Database, work: Callable[[Session], Any], *, writing: bool = False, of_runs: bool = False) -> list[str]:
    """The steps of the plan of every statement that `work` sends; with `of_runs`, of those to the table of runs."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, is_many: bool) -> None:
        if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")) and ("FROM runs" in statement or not of_runs):
            sent.append((statement, parameters[0] if is_many else parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    with database.writing() if writing else database.reading() as session:
        work(session)
    event.remove(database.engine, "before_cursor_execute", note)
    assert sent
    with database.engine.connect() as connection:
        return [
            row[3]
            for statement, parameters in sent
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", tuple(parameters)).all()
        ]


READS: dict[str, Callable[[Session, str], Any]] = {
    "the list of runs": lambda session, _: runs.list_runs(session, "user_ada", limit=31),
    "the list of runs in a state": lambda session, _: runs.list_runs(session, "user_ada", state="failed", limit=31),
    "a later page of runs": lambda session, run_id: runs.list_runs(session, "user_ada", after=run_id, limit=31),
    "the list of runs of a member": lambda session, _: runs.list_runs(session, "user_eve", limit=31),
    "the list of runs of one's own": lambda session, _: runs.list_runs(session, "user_eve", mine=True, limit=31),
    "the list of runs of a member in a state": lambda session, _: runs.list_runs(session, "user_eve", state="failed", limit=31),
    "the sorted list of runs of a member": lambda session, _: find_runs(session, "user_eve", RunQuery(sort=RunSort.KL), limit=31),
    "sweeps for a member": lambda session, _: sweeps.list_sweeps(session, "user_eve"),
    "how many runs are in each state": lambda session, _: runs.count_runs(session, "user_ada"),
    "the rows of a page": lambda session, run_id: runs.describe_runs(
        session, "user_ada", [runs.get_run(session, "user_ada", run_id)]
    ),
    "a short series": lambda session, run_id: metrics.list_metrics(session, run_id, ["loss"], points=4000),
    "a long series": lambda session, run_id: metrics.list_metrics(session, run_id, ["loss"], points=20),
    "the keys of all series": lambda session, run_id: metrics.metric_keys(session, run_id),
    "histograms": lambda session, run_id: journal.list_histograms(session, run_id, columns=1),
    "the log": lambda session, run_id: journal.read_last(session, run_id, LOG_KINDS, 300),
    "the next events": lambda session, run_id: journal.read(session, run_id, after=1),
    "events of a kind": lambda session, run_id: journal.read(session, run_id, kinds=["finding"]),
    "the newest event of a kind": lambda session, run_id: journal.latest(session, run_id, "step"),
    "samples": lambda session, run_id: journal.list_sample_steps(session, run_id),
    "what a worker looks at": lambda session, run_id: runs.watch(session, [run_id]),
}


@pytest.mark.parametrize("what", [what for what in READS if "of runs" in what or "list" in what])
def test_a_page_of_runs_is_read_in_order_and_never_sorted(database: Database, run_id: str, what: str) -> None:
    assert not any("B-TREE" in step for step in plans_of(database, lambda session: READS[what](session, run_id)))


@pytest.mark.parametrize("what", READS)
def test_reading_it_walks_through_no_table(database: Database, run_id: str, what: str) -> None:
    assert scans(plans_of(database, lambda session: READS[what](session, run_id))) == []


@pytest.mark.usefixtures("run_id")
def test_a_launch_neither_sorts_nor_walks_through_what_was_launched_before(database: Database, library: Library) -> None:
    plan = plans_of(
        database, lambda session: services.launch(session, library.user.id, library.recipe()), writing=True, of_runs=True
    )
    assert scans(plan) == []
    assert not any("B-TREE" in step for step in plan), plan


def test_recording_and_claiming_walk_through_no_table(database: Database, run_id: str) -> None:
    values = {("loss", step): 1.0 for step in range(2990, 3100)}
    assert scans(plans_of(database, lambda session: metrics.write_metrics(session, run_id, values), writing=True)) == []
    assert scans(plans_of(database, lambda session: attempts.reap(session), writing=True)) == []


def scans(plan: list[str]) -> list[str]:
    return [step for step in plan if step.startswith(tuple(f"SCAN {table}" for table in LARGE))]


def test_the_log_of_a_long_run_is_its_newest_lines(database: Database, run_id: str) -> None:
    assert "SCAN journal" not in " ".join(plans_of(database, lambda s: journal.read_last(s, run_id, ["step", "log"], 2)))


def test_the_keys_of_a_run_are_sorted_and_only_its_own(either_database: Database) -> None:
    from tests.conftest import make_library

    library = make_library(either_database)
    with either_database.writing() as session:
        first, second = (services.launch(session, library.user.id, library.recipe()).id for _ in range(2))
        metrics.write_metrics(session, first, {(key, step): 1.0 for key in ("loss", "eval/kl", "weight/ess") for step in (1, 2)})
        metrics.write_metrics(session, second, {("dpo/margin", 1): 1.0})
    with either_database.reading() as session:
        assert metrics.metric_keys(session, first) == ["eval/kl", "loss", "weight/ess"]
        assert metrics.metric_keys(session, second) == ["dpo/margin"]
        assert metrics.metric_keys(session, "run_unknown") == []
