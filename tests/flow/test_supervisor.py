"""The supervisor against a stand-in runner: real processes, a real database, judged by rows and journal."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.services import attempts
from app.services import runs as services
from app.settings import Settings
from app.store import runs
from app.store.database import Database
from app.store.files.files import Files
from app.store.workers import list_workers
from tests.conftest import Library, make_library
from tests.flow.watching import (
    assert_nothing_runs,
    assert_whole,
    fetch,
    launch,
    read_journal,
    wait_for_end,
    wait_until,
)
from tests.timing import Clock
from tests.waiting import END_SECONDS
from worker.supervision.attempt import Patience
from worker.supervisor import Supervisor

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
Start = Callable[..., Supervisor]


@pytest.fixture
def start(settings: Settings, database: Database, files: Files) -> Iterator[Start]:
    """Start supervisors in threads; they are stopped and waited for at the end."""
    started: list[tuple[Supervisor, threading.Thread]] = []

    def start_one(*arguments: str, patience: Patience | None = None, on: Database | None = None, **changes: object) -> Supervisor:
        changed = settings.model_copy(update={"worker_name": f"worker-{len(started)}", "grace_seconds": 5.0, **changes})
        command = (*STAND_IN, *arguments)
        supervisor = Supervisor(changed, on or database, files, runner_command=command, patience=patience, gpus=[])
        thread = threading.Thread(target=supervisor.run)
        started.append((supervisor, thread))
        thread.start()
        return supervisor

    yield start_one
    for supervisor, _ in started:
        supervisor.stop()
    for _, thread in started:
        thread.join(END_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def run_id(database: Database, library: Library) -> str:
    return launch(database, library)


def test_a_run_goes_from_queued_to_succeeded(start: Start, database: Database, files: Files, run_id: str) -> None:
    start()
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt, run.step, run.num_steps, run.stage) == ("succeeded", 1, 20, 20, "train")
    assert run.summary == {"loss": 0.05}
    assert_whole(database, run_id)
    states = [entry.payload["state"] for entry in read_journal(database, run_id, "state")]
    assert states == ["queued", "running", "succeeded"]
    assert "the stand-in begins" in (files.attempt_dir(run_id, 1) / "log.txt").read_text()
    with database.reading() as session:
        (attempt,) = runs.list_attempts(session, run_id)
        assert (attempt.outcome, attempt.worker_id) == ("succeeded", "worker-0")


def test_a_killed_runner_is_resumed_and_every_step_is_there_once(start: Start, database: Database, run_id: str) -> None:
    start("kill@13")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert_whole(database, run_id)
    (resumed,) = read_journal(database, run_id, "resume")
    assert resumed.payload["step"] == 10


def test_a_runner_that_is_always_killed_fails_after_one_retry(start: Start, database: Database, run_id: str) -> None:
    start("kill@3!")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("failed", 2)
    assert run.error is not None
    assert "memory" in run.error["reason"]
    assert "micro_batch_size" in run.error["remedy"]


def test_a_crashing_runner_fails_after_three_attempts_with_its_log(
    start: Start, database: Database, library: Library, run_id: str
) -> None:
    start("exit@1!")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("failed", 3)
    assert run.error is not None
    assert "exit status 3" in run.error["reason"]
    assert "the stand-in fell over" in run.error["log_tail"]


def test_a_failure_that_a_retry_can_not_change_is_final(start: Start, database: Database, run_id: str) -> None:
    start("hopeless@2!")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert (run.error["reason"], run.error["remedy"]) == ("CUDA is out of memory.", "Lower micro_batch_size.")


def test_a_failure_that_may_pass_is_tried_again(start: Start, database: Database, run_id: str) -> None:
    start("fail@7")
    assert wait_for_end(database, run_id).attempt == 2
    assert_whole(database, run_id)


def test_an_end_without_a_word_is_no_success(start: Start, database: Database, run_id: str) -> None:
    start("silent@1!")
    run = wait_for_end(database, run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert "without saying" in run.error["reason"]


def test_a_runner_that_always_leaves_by_itself_is_not_started_for_ever(start: Start, database: Database, run_id: str) -> None:
    start("leave@2!")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("failed", 3)
    assert run.error is not None
    assert "it felt like leaving" in run.error["reason"]


def test_a_torn_line_waits_for_its_end(start: Start, database: Database, run_id: str) -> None:
    start("torn@4")
    wait_for_end(database, run_id)
    assert_whole(database, run_id)
    assert [entry.payload["text"] for entry in read_journal(database, run_id, "log")] == ["in two halves"]


def test_cancelling_stops_a_running_run_within_a_second(
    start: Start, database: Database, library: Library, run_id: str, clock: Clock
) -> None:
    start("steps=100000", heartbeat_seconds=600.0, lease_seconds=1800.0)
    wait_until(lambda: fetch(database, run_id).step > 3)
    with database.writing() as session:
        services.request_cancel(session, library.user.id, run_id)
    with clock.within(1.5):
        run = wait_for_end(database, run_id)
    assert run.state == "cancelled"


def test_a_deaf_runner_is_killed_with_all_it_started(
    start: Start, database: Database, files: Files, library: Library, run_id: str, clock: Clock
) -> None:
    start("deaf@3", "child@2", patience=Patience(cancel_terminate=0.2, cancel_kill=0.5))
    wait_until(lambda: fetch(database, run_id).step == 2)
    with database.writing() as session:
        services.request_cancel(session, library.user.id, run_id)
    with clock.within(5):
        assert wait_for_end(database, run_id).state == "cancelled"
    assert_nothing_runs(files, run_id)


def test_what_a_runner_started_ends_with_it(start: Start, database: Database, files: Files, run_id: str) -> None:
    start("child@2")
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_nothing_runs(files, run_id)


def test_a_stopping_worker_gives_its_run_back_and_the_next_one_goes_on(start: Start, database: Database, run_id: str) -> None:
    first = start("steps=60")
    wait_until(lambda: fetch(database, run_id).step >= 7)
    first.stop()
    wait_until(lambda: fetch(database, run_id).state == "queued")
    assert fetch(database, run_id).num_failures == 0
    start("steps=60")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert_whole(database, run_id, steps=60)
    assert [entry.payload["step"] for entry in read_journal(database, run_id, "resume")] == [first_step(database, run_id)]


def first_step(database: Database, run_id: str) -> int:
    """Step of the checkpoint that the stop made: the last one of attempt 1."""
    resume = read_journal(database, run_id, "resume")[0]
    saved = [entry for entry in read_journal(database, run_id, "checkpoint") if entry.seq < resume.seq]
    return int(saved[-1].payload["step"])


def test_a_deaf_runner_can_not_hold_up_a_stopping_worker(start: Start, database: Database, run_id: str, clock: Clock) -> None:
    supervisor = start("deaf@3", grace_seconds=0.5)
    wait_until(lambda: fetch(database, run_id).step == 2)
    supervisor.stop()
    with clock.within(5):
        wait_until(lambda: fetch(database, run_id).state == "queued")


def test_a_fenced_out_runner_is_ended_and_writes_nothing_more(start: Start, database: Database, run_id: str) -> None:
    first = start("steps=2000")
    wait_until(lambda: fetch(database, run_id).step > 3)
    with database.writing() as session:
        run = runs.lock_run(session, run_id)
        attempts.lose(session, run_id, run.token, "taken away by the test")
        claim = attempts.begin(session, "elsewhere", 60)
        assert claim is not None
    wait_until(lambda: not first._running)
    run = fetch(database, run_id)
    assert (run.worker_id, run.token, run.state) == ("elsewhere", claim.token, "running")
    assert run.last_seq == read_journal(database, run_id)[-1].seq
    assert read_journal(database, run_id)[-1].kind == "state"


def test_while_the_database_is_locked_the_runner_goes_on_and_nothing_is_lost(
    start: Start, settings: Settings, database: Database, files: Files, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.database.BUSY_SECONDS", 0.2)  # new connections give up after 0.2 s
    database.engine.dispose()
    start("steps=40")
    wait_until(lambda: fetch(database, run_id).step > 3)
    spool = files.attempt_dir(run_id, 1) / "events.jsonl"
    with database.writing():
        size = spool.stat().st_size
        time.sleep(1.0)
        wait_until(lambda: spool.stat().st_size > size, "lines in the spool")
    assert wait_for_end(database, run_id).attempt == 1
    assert_whole(database, run_id, steps=40)


@pytest.mark.usefixtures("database")  # before the other one, so that the supervisors are stopped before it is closed
def test_two_workers_share_ten_runs_and_each_runs_once(either_database: Database, files: Files, start: Start) -> None:
    database = either_database
    library = make_library(database)
    run_ids = [launch(database, library) for _ in range(10)]
    for _ in range(2):
        start("steps=3", "pause=0", "wait@2", on=database, worker_slots=2)

    def working() -> set[str | None]:
        return {run.worker_id for run in (fetch(database, run_id) for run_id in run_ids) if run.state == "running"}

    wait_until(lambda: working() == {"worker-0", "worker-1"}, "runs of both workers")
    for run_id in run_ids:
        files.run_dir(run_id).mkdir(parents=True, exist_ok=True)
        (files.run_dir(run_id) / "go").touch()
    for run_id in run_ids:
        assert wait_for_end(database, run_id).attempt == 1
        assert_whole(database, run_id, steps=3)
    with database.reading() as session:
        workers = {runs.list_attempts(session, run_id)[0].worker_id for run_id in run_ids}
    assert workers == {"worker-0", "worker-1"}


def test_a_fresh_supervisor_leaves_other_workers_a_whole_lease_before_it_reaps(
    start: Start, database: Database, run_id: str
) -> None:
    with database.writing() as session:
        assert attempts.begin(session, "silent since long ago", -3600) is not None
    began = time.monotonic()
    start(lease_seconds=2.0)
    wait_until(lambda: fetch(database, run_id).num_failures == 1)
    assert time.monotonic() - began > 1.9
    assert wait_for_end(database, run_id).attempt == 2


def test_a_worker_is_listed_while_it_lives(start: Start, database: Database) -> None:
    def listed() -> list[str]:
        with database.reading() as session:
            return [worker.id for worker in list_workers(session)]

    supervisor = start(lease_seconds=77.0)
    wait_until(lambda: listed() == ["worker-0"])
    with database.reading() as session:
        assert list_workers(session)[0].load["lease_seconds"] == 77.0
        assert "GPU" in list_workers(session)[0].load["off"]["flex"]
    supervisor.stop()
    wait_until(lambda: listed() == [])


def test_a_recipe_whose_model_is_gone_fails_with_a_sentence(
    start: Start, database: Database, library: Library, run_id: str
) -> None:
    with database.writing() as session:
        run = runs.lock_run(session, run_id)
        run.recipe = {**run.recipe, "policy": {**run.recipe["policy"], "model": "model_gone"}}
    start()
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "'model_gone' was deleted" in run.error["reason"]


def test_a_success_that_nobody_heard_is_taken_over_with_all_its_lines(
    start: Start, database: Database, files: Files, run_id: str
) -> None:
    with database.writing() as session:
        claim = attempts.begin(session, "dead", 0.0)
        assert claim is not None
        attempts.open_spool(session, claim)
    folder = files.attempt_dir(run_id, 1)
    folder.mkdir(parents=True)
    steps = [("step", measure(step)) for step in range(1, 21)]
    lines = [*steps, ("outcome", {"outcome": "succeeded", "summary": {"loss": 0.05}})]
    (folder / "events.jsonl").write_text(
        "".join(
            json.dumps({"n": n, "at": "2026-01-31T12:00:00Z", "kind": kind, "payload": payload}) + "\n"
            for n, (kind, payload) in enumerate(lines, start=1)
        )
    )
    start("hopeless@1!", lease_seconds=0.5)
    run = wait_for_end(database, run_id)
    assert (run.state, run.summary, run.step) == ("succeeded", {"loss": 0.05}, 20)
    assert_whole(database, run_id)
    assert not files.attempt_dir(run_id, 2).exists()


def measure(step: int) -> dict[str, object]:
    return {"step": step, "num_steps": 20, "epoch": 0.1, "batch": 0, "metrics": {"loss": 1.0 / step}, "histogram": []}
