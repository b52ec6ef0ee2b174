"""The runner that waits: when there is one, for what it is taken, and that nothing of it is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import END_SECONDS, wait_until
from worker.supervision.process import RECORD, RunnerProcess, find_marked, kill_leftovers
from worker.supervision.standby import Standby

# What a waiting runner does, without the seconds that imports take.
PROGRAM = """
import os, sys
from worker.runner import await_attempt
import worker.runner
worker.runner.import_course = lambda: None
folder = await_attempt() if sys.argv[1:] == ["--wait"] else sys.argv[1:]
if folder:
    print(os.getpid(), os.environ.get("OMP_NUM_THREADS"), sys.argv[1:] == ["--wait"], sys.stdin.read(), flush=True)
"""
COMMAND = (sys.executable, "-c", PROGRAM)
ONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}


@pytest.fixture
def standby() -> Iterator[Standby]:
    standby = Standby(COMMAND, 600.0)
    yield standby
    standby.end()


@pytest.fixture
def attempt_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "attempts" / "1"
    folder.mkdir(parents=True)
    return folder


def read_log(attempt_dir: Path, process: RunnerProcess) -> list[str]:
    assert process._popen.wait(END_SECONDS) == 0
    return (attempt_dir / "log.txt").read_text().split(" ", 3)


def start(standby: Standby, environment: dict[str, str] = ONE) -> int:
    standby.want()
    standby.look(environment)
    assert standby.pid is not None
    return standby.pid


def test_nobody_waits_before_a_run_is_likely_and_none_where_none_is_wanted() -> None:
    idle, none = Standby(COMMAND, 600.0), Standby(COMMAND, 0.0)
    idle.look(ONE)
    none.want()
    none.look(ONE)
    assert (idle.pid, none.pid) == (None, None)


def test_one_that_is_wanted_later_is_started_later(standby: Standby) -> None:
    standby.want(after_seconds=3600.0)
    standby.look(ONE)
    assert standby.pid is None


def test_a_waiting_runner_takes_an_attempt_its_log_its_environment_and_the_keys(standby: Standby, attempt_dir: Path) -> None:
    waiting = start(standby)
    process = RunnerProcess(COMMAND, attempt_dir, ONE, {"endpoint_lab": "geheim"}, standby.take(ONE))
    assert read_log(attempt_dir, process) == [str(waiting), "1", "True", '{"endpoint_lab": "geheim"}\n']
    assert json.loads((attempt_dir / RECORD).read_text())["pid"] == waiting
    assert standby.pid is None


def test_by_its_mark_a_waiting_runner_that_was_taken_is_found_and_ended(standby: Standby, attempt_dir: Path) -> None:
    sleeper = Standby((sys.executable, "-c", "import time; time.sleep(600)"), 600.0)
    start(sleeper)
    process = RunnerProcess(COMMAND, attempt_dir, ONE, None, sleeper.take(ONE))
    mark = json.loads((attempt_dir / RECORD).read_text())["mark"]
    wait_until(lambda: [found.pid for found in find_marked(mark)] == [process.pid])
    assert kill_leftovers(attempt_dir.parent) == 1
    assert process.poll() == -signal.SIGKILL


def test_for_another_environment_a_runner_starts_cold(standby: Standby, attempt_dir: Path) -> None:
    waiting = start(standby)
    other = {**ONE, "CUDA_VISIBLE_DEVICES": "1"}
    process = RunnerProcess(COMMAND, attempt_dir, other, None, standby.take(other))
    assert read_log(attempt_dir, process)[2] == "False"
    assert standby.pid == waiting


def test_one_for_another_environment_is_replaced(standby: Standby) -> None:
    first = start(standby)
    assert start(standby, {**ONE, "CUDA_VISIBLE_DEVICES": "1"}) != first
    assert not psutil.pid_exists(first)


def test_one_that_was_killed_is_replaced_and_never_taken(standby: Standby) -> None:
    first = start(standby)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
    assert standby.take(ONE) is None
    assert start(standby) != first


def test_one_that_dies_when_it_is_taken_is_no_loss(standby: Standby, attempt_dir: Path) -> None:
    start(standby)
    taken = standby.take(ONE)
    assert taken is not None
    os.kill(taken.popen.pid, signal.SIGKILL)
    taken.popen.wait()
    process = RunnerProcess(COMMAND, attempt_dir, ONE, None, taken)
    assert read_log(attempt_dir, process)[2] == "False"


def test_one_that_is_wanted_no_longer_leaves(standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = start(standby)
    monkeypatch.setattr("worker.supervision.standby.time.monotonic", lambda: float("inf"))
    standby.look(ONE)
    assert standby.pid is None
    assert not psutil.pid_exists(waiting)


def test_it_leaves_when_whoever_started_it_is_gone() -> None:
    program = (
        f"import os, signal; from worker.supervision.standby import Standby; s = Standby({COMMAND!r}, 600.0); s.want();"
        "s.look({}); print(s.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    started = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    assert started.returncode == -signal.SIGKILL
    waiting = int(started.stdout)
    wait_until(lambda: not psutil.pid_exists(waiting) or psutil.Process(waiting).status() == psutil.STATUS_ZOMBIE)
