"""The supervisor's small parts: the spool's reader, processes of earlier lives, GPUs, log lines."""

import errno
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.domain.errors import Unavailable
from app.logs import LineFormatter
from app.store.files.files import disk_full_is_unavailable
from app.store.signals.hints import QUEUE_NAME, WAKE_TASK
from tests.planted import plant
from tests.waiting import END_SECONDS
from worker import tasks
from worker.supervision import process as process_module
from worker.supervision.attempt import explain
from worker.supervision.devices import Device, parse_gpus
from worker.supervision.process import RECORD, RunnerProcess, Spawned, kill_leftovers
from worker.supervision.spool_tail import MAX_LINES, SpoolTail, read_log_tail

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def spool_line(n: int) -> bytes:
    return json.dumps({"n": n, "at": "", "kind": "log", "payload": {"level": "info", "text": "ä" * 10}}).encode() + b"\n"


@pytest.fixture
def attempt_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "attempts" / "1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def sleeper(attempt_dir: Path) -> Iterator[RunnerProcess]:
    process = RunnerProcess(SLEEP, attempt_dir, {})
    yield process
    process.kill()


def test_a_spool_is_read_as_it_grows_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = SpoolTail(path)
    assert tail.read() == []
    text = spool_line(1) + spool_line(2)
    seen = []
    for byte in range(len(text)):
        with path.open("ab") as file:
            file.write(text[byte : byte + 1])
        seen += [line.n for line in tail.read()]
    assert seen == [1, 2]
    assert tail.unread_bytes == 0


def test_a_long_spool_comes_in_bounded_pieces_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(spool_line(n) for n in range(1, 30_001)))
    tail, seen = SpoolTail(path), []
    while lines := tail.read():
        assert len(lines) <= MAX_LINES
        seen += [line.n for line in lines]
    assert seen == list(range(1, 30_001))


def test_what_is_no_event_is_left_out_and_the_rest_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "events.jsonl"
    garbage = [b"\n", b"{\n", b"[1]\n", b"\xff\xfe\n", b"x" * 3_000_000 + b"\n"] * MAX_LINES
    path.write_bytes(spool_line(1) + b"".join(garbage[:10]) + b"\n" * 2000 + spool_line(2) + b'{"n": 3')
    tail, seen = SpoolTail(path), []
    while lines := tail.read():
        seen += [line.n for line in lines]
    assert seen == [1, 2]
    assert tail.unread_bytes == 7
    assert "left out" in caplog.text


def test_the_log_tail_is_the_last_lines_whatever_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    assert read_log_tail(path) == ""
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(100_000)) + b"\xff\0 the end")
    tail = read_log_tail(path).splitlines()
    assert len(tail) == 40
    assert tail[0] == "line 99961"
    assert tail[-1] == "\ufffd\ufffd the end"


def test_a_leftover_of_this_machine_is_ended(attempt_dir: Path, sleeper: RunnerProcess) -> None:
    assert kill_leftovers(attempt_dir.parent) == 1
    assert sleeper.poll() == -signal.SIGKILL
    assert kill_leftovers(attempt_dir.parent) == 0


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_runner_that_can_not_be_noted_is_ended(attempt_dir: Path, monkeypatch: pytest.MonkeyPatch, is_waiting: bool) -> None:
    def fail(*_: object) -> None:
        with disk_full_is_unavailable():
            raise OSError(errno.ENOSPC, "No space left on device")

    spawned: list[Spawned] = []
    spawn = process_module.spawn
    monkeypatch.setattr(process_module, "spawn", lambda *of: spawned.append(spawn(*of)) or spawned[-1])
    monkeypatch.setattr(process_module, "write_atomic", fail)
    waiting = process_module.spawn(SLEEP, None, {}, subprocess.PIPE) if is_waiting else None
    with pytest.raises(Unavailable, match="disk is full"):
        RunnerProcess(SLEEP, attempt_dir, {}, None, waiting)
    [one] = spawned
    try:
        assert one.popen.poll() == -signal.SIGKILL
    finally:
        one.end()


def test_a_stranger_with_the_same_number_is_spared(attempt_dir: Path, sleeper: RunnerProcess) -> None:
    path = attempt_dir / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "mark": "of another life"}))
    assert kill_leftovers(attempt_dir.parent) == 0
    assert sleeper.poll() is None


def test_children_of_a_leader_that_is_gone_are_ended_too(attempt_dir: Path) -> None:
    program = f"import subprocess, sys; print(subprocess.Popen({list(SLEEP)!r}).pid, flush=True)"
    process = RunnerProcess((sys.executable, "-c", program), attempt_dir, {})
    process._popen.wait(END_SECONDS)
    child = int((attempt_dir / "log.txt").read_text())
    assert psutil.Process(child).status() != psutil.STATUS_ZOMBIE
    assert kill_leftovers(attempt_dir.parent) == 1
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_child_in_a_session_of_its_own_is_ended_too(attempt_dir: Path) -> None:
    program = f"import subprocess; print(subprocess.Popen({list(SLEEP)!r}, start_new_session=True).pid, flush=True)"
    process = RunnerProcess((sys.executable, "-c", program), attempt_dir, {})
    process._popen.wait(END_SECONDS)
    child = psutil.Process(int((attempt_dir / "log.txt").read_text()))
    assert kill_leftovers(attempt_dir.parent) == 1
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_the_runner_gets_no_secrets(attempt_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_DATABASE_URL", "postgresql://user:geheim@host/db")
    monkeypatch.setenv("STUDIO_BROKER_URL", "redis://:geheim@host")
    program = "import os; print(sorted(os.environ.items()), flush=True)"
    process = RunnerProcess((sys.executable, "-c", program), attempt_dir, {"OMP_NUM_THREADS": "3"})
    process._popen.wait(END_SECONDS)
    log = (attempt_dir / "log.txt").read_text()
    assert "geheim" not in log
    assert "('OMP_NUM_THREADS', '3')" in log


def test_nothing_that_the_runner_starts_runs_a_module_of_the_working_folder(
    attempt_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = plant(tmp_path)
    monkeypatch.chdir(tmp_path)
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import select'])"
    process = RunnerProcess((sys.executable, "-P", "-c", program), attempt_dir, {})
    assert process._popen.wait(END_SECONDS) == 0
    assert not ran.exists()


def test_gpus_are_read_from_the_drivers_answer() -> None:
    answer = "0, GPU-aa, NVIDIA H200, 143771\n1, GPU-bb, NVIDIA A100, 80GB, [N/A]\n"
    first, second = Device(0, "NVIDIA H200", 143771 * 2**20), Device(1, "NVIDIA A100, 80GB", 0)
    assert parse_gpus(answer, None) == [first, second]
    assert parse_gpus(answer, "1") == [second]
    assert parse_gpus(answer, "GPU-aa") == [first]
    assert parse_gpus(answer, "") == []


def test_a_log_line_names_run_and_attempt_and_stays_one_line() -> None:
    record = logging.LogRecord("worker", logging.INFO, "", 0, 'two "lines"\nof %s', ("text",), None)
    record.run_id, record.attempt = "run_1", 2
    line = LineFormatter().format(record)
    assert line.endswith('logger=worker run_id=run_1 attempt=2 message="two \\"lines\\"\\nof text"')
    assert "\n" not in line


def test_the_task_only_wakes() -> None:
    tasks.hinted.clear()
    tasks.wake("run_1")
    assert tasks.hinted.is_set()
    tasks.hinted.clear()
    assert (tasks.wake.name, QUEUE_NAME) == (WAKE_TASK, "studio")


def test_a_kill_from_outside_is_not_blamed_on_memory_alone() -> None:
    reason, remedy = explain(-signal.SIGKILL)
    assert reason == "The runner was killed from outside (SIGKILL): by a person, or by the system when memory ran out."
    assert remedy.startswith("If the machine ran out of memory: ")


def test_the_runner_gets_keys_through_its_standard_input_and_shows_them_nowhere(attempt_dir: Path) -> None:
    program = "import sys, os; print(len(sys.stdin.buffer.read()), sorted(os.environ.items()), sys.argv, flush=True)"
    process = RunnerProcess((sys.executable, "-c", program), attempt_dir, {}, {"endpoint_lab": "geheim"})
    process._popen.wait(END_SECONDS)
    log = (attempt_dir / "log.txt").read_text()
    assert log.startswith(str(len('{"endpoint_lab": "geheim"}')))
    assert not any("geheim" in path.read_text() for path in attempt_dir.iterdir())


def test_a_runner_that_is_gone_before_it_gets_its_keys_is_no_error(attempt_dir: Path) -> None:
    process = RunnerProcess(("/bin/true",), attempt_dir, {}, {"endpoint_lab": "k" * 2**20})
    assert process._popen.wait(END_SECONDS) == 0
