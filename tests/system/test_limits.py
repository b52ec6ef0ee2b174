"""What a process may take of the machine: held by the kernel where it can, and no error where it can't."""

import os
import resource
import subprocess
import sys

import pytest

from app.system.limits import count_cores, limit_memory


def run(program: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)


def test_memory_past_the_limit_is_refused_and_memory_below_it_is_given() -> None:
    program = "from app.system.limits import limit_memory; limit_memory(64 * 2**20); print(len(bytearray({} * 2**20)))"
    assert run(program.format(20)).returncode == 0
    assert b"MemoryError" in run(program.format(200)).stderr


def test_what_a_process_may_write_is_limited_from_its_start_on() -> None:
    program = "from app.system.limits import limit_data; limit_data(64 * 2**20); print(len(bytearray({} * 2**20)))"
    assert run(program.format(20)).returncode == 0
    assert b"MemoryError" in run(program.format(70)).stderr


def test_a_process_past_its_time_is_ended() -> None:
    program = "from app.system.limits import limit_processor; limit_processor(0)\nwhile True: pass"
    assert run(program).returncode < 0


def test_a_system_that_limits_no_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        asked.append(kind)
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")  # macOS

    monkeypatch.setattr(resource, "setrlimit", refuse)
    limit_memory(1)
    assert set(asked) == {resource.RLIMIT_AS, resource.RLIMIT_CORE}


def test_cores_are_counted_where_none_can_be_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= count_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert count_cores() == os.cpu_count()
