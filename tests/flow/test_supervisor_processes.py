"""The worker as it is really started, Celery and all, against hints that come, get lost, and processes that die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from app.services import runs as services
from app.settings import Settings
from app.store import workers
from app.store.database import Database
from app.store.files.files import Files
from app.store.signals.hints import WAKE_TASK
from tests import warm
from tests.conftest import CHECKOUT, Library
from tests.flow.watching import assert_nothing_runs, assert_whole, fetch, launch, read_journal, wait_for_end
from tests.timing import Clock
from tests.waiting import END_SECONDS, wait_until

Work = Callable[..., subprocess.Popen[bytes]]
NO_BROKER = "redis://127.0.0.1:1/0"


@pytest.fixture
def work(settings: Settings, database: Database, tmp_path: Path) -> Iterator[Work]:
    """Start workers as processes; what is left of them is killed at the end. `settings` of the environment as keywords."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **changes: str) -> subprocess.Popen[bytes]:
        name = f"worker-{len(started)}"
        defaults = {
            "worker_name": name,
            "heartbeat_seconds": "0.5",
            "lease_seconds": "2",
            "poll_seconds": "0.5",
            "grace_seconds": "10",
        }
        environment = {f"STUDIO_{key.upper()}": value for key, value in {**defaults, **changes}.items()}
        command = [sys.executable, str(Path(__file__).with_name("work.py")), *arguments]
        with (tmp_path / f"{name}.log").open("wb") as log:
            worker = warm.Popen(
                command, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "STUDIO_DATA_DIR": str(settings.root), **environment},
            )  # fmt: skip
        started.append(worker)
        wait_until(lambda: name in listed(database) or worker.poll() is not None)
        assert worker.poll() is None, (tmp_path / f"{name}.log").read_text()
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def listed(database: Database) -> list[str]:
    with database.reading() as session:
        return [worker.id for worker in workers.list_workers(session)]


def runner_pid(files: Files, run_id: str, attempt: int) -> int:
    path = files.attempt_dir(run_id, attempt) / "process.json"
    wait_until(path.exists)
    return int(json.loads(path.read_text())["pid"])


def steps_of(files: Files, run_id: str, attempt: int) -> list[dict[str, str]]:
    lines = (files.attempt_dir(run_id, attempt) / "events.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "step"]


def test_a_hint_begins_a_run_in_well_under_two_seconds(
    work: Work, database: Database, library: Library, tmp_path: Path, clock: Clock
) -> None:
    work(poll_seconds="60")
    time.sleep(1.5)  # past the first look, so that only a hint can wake it
    run_id = launch(database, library)
    run = wait_for_end(database, run_id)
    assert run.started_at is not None
    assert run.started_at - run.queued_at < timedelta(seconds=60)  # the next look
    clock.check((run.started_at - run.queued_at).total_seconds(), 2.0)
    assert_whole(database, run_id)
    log = (tmp_path / "worker-0.log").read_text()
    assert f"run_id={run_id} attempt=1 worker=worker-0" in log


@pytest.mark.parametrize("workers_broker", ["", NO_BROKER])
def test_without_hints_a_run_begins_by_looking(
    work: Work, settings: Settings, database: Database, library: Library, workers_broker: str, clock: Clock
) -> None:
    work(broker_url=workers_broker)
    mute = Database(settings.model_copy(update={"broker_url": NO_BROKER}))
    run_id = launch(mute, library)
    run = wait_for_end(database, run_id)
    assert run.started_at is not None
    clock.check((run.started_at - run.queued_at).total_seconds(), 3.0)
    mute.close()


def test_hints_that_come_five_times_begin_a_run_once(work: Work, database: Database, library: Library) -> None:
    work()
    work()
    run_ids = [launch(database, library) for _ in range(4)]
    for run_id in run_ids * 5:
        database.hints.send(run_id)
    for run_id in run_ids:
        assert wait_for_end(database, run_id).attempt == 1
        assert_whole(database, run_id)


def test_sigterm_saves_gives_back_and_ends_the_worker(work: Work, database: Database, files: Files, library: Library) -> None:
    worker = work("steps=200")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 7)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(END_SECONDS) == 0
    run = fetch(database, run_id)
    assert (run.state, run.num_failures) == ("queued", 0)
    assert read_journal(database, run_id, "state")[-2].payload["state"] == "interrupted"
    assert_nothing_runs(files, run_id)
    assert listed(database) == []
    saved = read_journal(database, run_id, "checkpoint")[-1].payload["step"]
    work("steps=200", "pause=0.005")
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_whole(database, run_id, steps=200)
    assert [entry.payload["step"] for entry in read_journal(database, run_id, "resume")] == [saved]


@pytest.mark.parametrize("with_runner", [True, False])
def test_after_kill_9_of_the_worker_another_resumes_and_two_runners_never_step(
    work: Work, database: Database, files: Files, library: Library, with_runner: bool
) -> None:
    worker = work("steps=300")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 12)
    if with_runner:
        os.kill(runner_pid(files, run_id, 1), signal.SIGKILL)
    worker.kill()
    worker.wait()
    work("steps=300", "pause=0.005")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert_whole(database, run_id, steps=300)
    assert steps_of(files, run_id, 1)[-1]["at"] < steps_of(files, run_id, 2)[0]["at"]


def test_a_runner_that_outlives_its_worker_is_ended_before_the_next_attempt(
    work: Work, database: Database, files: Files, library: Library
) -> None:
    worker = work("deaf@8", "child@7")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step == 7)
    left_behind = runner_pid(files, run_id, 1)
    worker.kill()
    worker.wait()
    assert psutil.pid_exists(left_behind)
    work()
    assert wait_for_end(database, run_id).attempt == 2
    assert_nothing_runs(files, run_id)


def test_what_a_worker_killed_amid_a_write_left_in_an_attempts_folder_is_removed(
    work: Work, database: Database, files: Files, library: Library
) -> None:
    run_id = launch(database, library)
    left = files.attempt_dir(run_id, 1) / ".process.json.00ff00ff00ff.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b'{"pid": 1')
    work()
    assert wait_for_end(database, run_id).state == "succeeded"
    assert not left.exists()


def test_a_worker_that_froze_for_two_leases_is_refused_and_ends_its_runner(
    work: Work, database: Database, files: Files, library: Library
) -> None:
    frozen = work("steps=200", "pause=0.05")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 7)
    frozen.send_signal(signal.SIGSTOP)
    old = runner_pid(files, run_id, 1)
    work("steps=200", "pause=0.005")
    wait_until(lambda: fetch(database, run_id).attempt == 2)
    frozen.send_signal(signal.SIGCONT)
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_whole(database, run_id, steps=200)
    wait_until(lambda: not psutil.pid_exists(old))
    assert frozen.poll() is None
    assert fetch(database, run_id).worker_id == "worker-1"


def test_a_message_that_is_no_json_is_refused_and_the_worker_lives(
    work: Work, settings: Settings, database: Database, library: Library, tmp_path: Path
) -> None:
    from kombu import Connection

    class Canary:
        """Whoever unpickles it makes a folder."""

        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "unpickled"),)

    work()
    with Connection(settings.celery_broker_url) as connection, connection.SimpleQueue("studio") as queue:
        queue.put({"run_id": Canary()}, serializer="pickle")
        queue.put(Canary(), serializer="pickle", headers={"task": WAKE_TASK, "id": "1"})
        queue.put("nonsense")
    run_id = launch(database, library)
    assert wait_for_end(database, run_id).state == "succeeded"
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("STUDIO_STORE_URL", "nonsense", "This worker can't start. STUDIO_STORE_URL must be a URL"),
        ("STUDIO_LEASE_SECONDS", "1", "STUDIO_LEASE_SECONDS is 1, but must be at least twice STUDIO_HEARTBEAT_SECONDS (5)"),
        ("STUDIO_POLL_SECONDS", "0", "STUDIO_POLL_SECONDS: Must be greater than 0"),
    ],
)
def test_a_worker_that_can_not_start_says_why_and_ends(settings: Settings, variable: str, value: str, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.main"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "STUDIO_DATA_DIR": str(settings.root), variable: value},
    )  # fmt: skip
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_worker_never_loads_torch() -> None:
    program = "import sys, worker.main, worker.supervisor, worker.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=False).returncode == 0


def test_cancelling_reaches_a_worker_through_the_hint(work: Work, database: Database, library: Library) -> None:
    never = str(10 * END_SECONDS)  # without a hint the worker would look too late
    work(f"watch={never}", "steps=2000", heartbeat_seconds=never, lease_seconds=str(30 * END_SECONDS))
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 3)
    with database.writing() as session:
        services.request_cancel(session, library.user.id, run_id)
    assert wait_for_end(database, run_id).state == "cancelled"


def test_a_worker_says_nothing_but_its_own_lines_when_it_starts(work: Work, tmp_path: Path) -> None:
    worker = work()
    log = tmp_path / "worker-0.log"
    wait_until(lambda: "ready" in log.read_text())
    worker.terminate()
    worker.wait(END_SECONDS)
    said = log.read_text()
    assert "SecurityWarning" not in said
    assert "transport:" not in said  # of Celery's banner
    assert [line for line in said.splitlines() if line.strip() and not line.startswith("at=")] == [
        "worker: Warm shutdown (MainProcess)"
    ]
