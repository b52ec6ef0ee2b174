"""Work in a copy of the process: its answer comes back, and what wants too much ends alone."""

import os
import time
from typing import Any

import pytest

from app.system.fork import Exceeded, work_apart

LIMITS: dict[str, Any] = {"cpu_seconds": 20, "memory_bytes": 2**28, "wait_seconds": 30.0}


def test_the_answer_of_the_copy_comes_back() -> None:
    here = os.getpid()
    answer = work_apart(lambda: {"pid": os.getpid(), "text": "é" * 200_000}, **LIMITS)
    assert answer["pid"] != here
    assert len(answer["text"]) == 200_000


def test_what_comes_to_no_end_is_ended() -> None:
    def turn() -> dict[str, Any]:
        while True:
            pass

    with pytest.raises(Exceeded):
        work_apart(turn, **{**LIMITS, "cpu_seconds": 0})


def test_what_waits_too_long_is_ended() -> None:
    with pytest.raises(Exceeded):
        work_apart(lambda: time.sleep(600) or {}, **{**LIMITS, "wait_seconds": 0.2})


def test_memory_past_the_limit_is_refused_in_the_copy_alone() -> None:
    def fill() -> dict[str, Any]:
        try:
            return {"size": len(bytearray(2**30))}
        except MemoryError:
            return {"size": 0}

    assert work_apart(fill, **LIMITS) == {"size": 0}
    assert len(bytearray(2**29)) == 2**29


def test_an_error_in_the_copy_leaves_no_answer() -> None:
    with pytest.raises(Exceeded):
        work_apart(lambda: {"what": object()}, **LIMITS)
