"""Several workers on one box: capacity, turns, pause and release of a running run, and moving it from one to the other."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.services import queue as steering
from app.services import workers as fleet
from app.services.acts import Actor
from app.settings import Settings
from app.store import runs
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Run, Worker
from tests.conftest import Library
from tests.flow.watching import assert_whole, fetch, launch, read_journal, wait_for_end
from tests.waiting import END_SECONDS, wait_until
from worker.supervisor import Supervisor

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
ADA = Actor("user_ada", is_admin=True)
Start = Callable[..., Supervisor]


@pytest.fixture
def start(settings: Settings, database: Database, files: Files) -> Iterator[Start]:
    """Starts a supervisor of this name with the stand-in as its runner; all are stopped at the end."""
    started: list[tuple[Supervisor, threading.Thread]] = []

    def start_one(name: str, *arguments: str, slots: int = 1) -> Supervisor:
        changed = settings.model_copy(update={"worker_name": name, "worker_slots": slots, "grace_seconds": 30.0})
        supervisor = Supervisor(changed, database, files, runner_command=(*STAND_IN, *arguments), gpus=[])
        thread = threading.Thread(target=supervisor.run)
        started.append((supervisor, thread))
        thread.start()
        wait_until(lambda: is_known(database, name))
        return supervisor

    yield start_one
    for supervisor, _ in started:
        supervisor.stop()
    for _, thread in started:
        thread.join(END_SECONDS)


def is_known(database: Database, name: str) -> bool:
    with database.reading() as session:
        return session.get(Worker, name) is not None


def steps_of(database: Database, run_id: str) -> int:
    return fetch(database, run_id).step


def attempts_of(database: Database, run_id: str) -> list[tuple[str, str]]:
    with database.reading() as session:
        return [(attempt.worker_id, attempt.outcome) for attempt in runs.list_attempts(session, run_id)]


def test_a_running_run_that_is_paused_goes_on_from_where_it_saved(
    start: Start, database: Database, files: Files, library: Library
) -> None:
    run_id = launch(database, library)
    start("a", "wait@5")
    wait_until(lambda: steps_of(database, run_id) >= 3)
    with database.writing() as session:
        steering.pause(session, ADA, run_id)
    wait_until(lambda: fetch(database, run_id).state == "queued")
    saved = fetch(database, run_id)
    assert 3 <= saved.step < 5
    assert (saved.num_failures, saved.release_requested_at) == (0, None)
    other = launch(database, library)
    wait_until(lambda: steps_of(database, other) >= 2)  # the slot is free for others, and several polls pass
    assert fetch(database, run_id).state == "queued"
    (files.run_dir(other) / "go").touch()
    with database.writing() as session:
        steering.release(session, ADA, run_id)
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_whole(database, run_id)
    assert attempts_of(database, run_id) == [("a", "interrupted"), ("a", "succeeded")]
    assert [entry.payload["step"] for entry in read_journal(database, run_id, "resume")] == [saved.step]


@pytest.mark.parametrize("wish", ["send_to", "keep_off"])
def test_a_running_run_moves_to_the_other_worker(wish: str, start: Start, database: Database, library: Library) -> None:
    run_id = launch(database, library)
    start("a", "wait@3")
    wait_until(lambda: steps_of(database, run_id) >= 2)
    start("b", "pause=0.01")
    with database.writing() as session:
        if wish == "send_to":
            steering.send_to(session, ADA, run_id, "b")
        else:
            steering.keep_off(session, ADA, run_id, "a")
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_whole(database, run_id)
    assert attempts_of(database, run_id) == [("a", "interrupted"), ("b", "succeeded")]
    assert fetch(database, run_id).num_failures == 0


def test_a_paused_worker_takes_nothing_and_begins_again_when_it_is_resumed(
    start: Start, database: Database, files: Files, library: Library
) -> None:
    first = launch(database, library)
    start("a", "wait@3")
    wait_until(lambda: fetch(database, first).state == "running")
    with database.writing() as session:
        fleet.pause(session, ADA, "a")
    second = launch(database, library)
    for run_id in (first, second):
        files.run_dir(run_id).mkdir(parents=True, exist_ok=True)
        (files.run_dir(run_id) / "go").touch()
    assert wait_for_end(database, first).state == "succeeded"  # it finishes what it runs
    time.sleep(1.5)  # three polls
    assert fetch(database, second).state == "queued"
    with database.writing() as session:
        fleet.resume(session, ADA, "a")
    assert wait_for_end(database, second).state == "succeeded"


def test_a_worker_that_is_drained_gives_its_runs_to_the_other(start: Start, database: Database, library: Library) -> None:
    ids = [launch(database, library) for _ in range(2)]
    start("a", "wait@3", slots=2)
    wait_until(lambda: all(steps_of(database, run_id) >= 2 for run_id in ids))
    start("b", "pause=0.01", slots=2)
    with database.writing() as session:
        fleet.pause(session, ADA, "a", give_back=True)
    for run_id in ids:
        assert wait_for_end(database, run_id).state == "succeeded"
        assert_whole(database, run_id)
        assert attempts_of(database, run_id) == [("a", "interrupted"), ("b", "succeeded")]


def test_a_pause_outlives_a_restart_of_a_named_worker(start: Start, database: Database, library: Library) -> None:
    first = start("a")
    with database.writing() as session:
        fleet.pause(session, ADA, "a")
    first.stop()

    def has_left() -> bool:
        with database.reading() as session:
            return session.get_one(Worker, "a").left_at is not None

    wait_until(has_left)
    start("a", "steps=1")
    wait_until(lambda: not has_left())
    run_id = launch(database, library)
    time.sleep(1.5)
    assert fetch(database, run_id).state == "queued"
    with database.writing() as session:
        fleet.resume(session, ADA, "a")
    assert wait_for_end(database, run_id).state == "succeeded"


def test_no_worker_runs_more_than_it_has_slots_and_its_load_says_what(start: Start, database: Database, library: Library) -> None:
    ids = [launch(database, library) for _ in range(8)]
    slots = {"a": 1, "b": 2}
    for name, num in slots.items():
        start(name, "steps=4", "pause=0.3", slots=num)
    most, told = dict.fromkeys(slots, 0), set()

    def all_ended() -> bool:
        with database.reading() as session:
            for name in slots:
                most[name] = max(most[name], len(runs.list_running(session, name)))
                told.update(one["run_id"] for one in session.get_one(Worker, name).load["running"])
            return session.query(Run).where(Run.finished_at.is_(None)).count() == 0

    wait_until(all_ended)
    assert most == slots  # all of its slots were used, and never more
    assert told <= set(ids)
    assert told
    assert {fetch(database, run_id).state for run_id in ids} == {"succeeded"}
    assert {fetch(database, run_id).attempt for run_id in ids} == {1}
