"""How tests wait: for an event, with one generous end for them all. How long something takes is asked by make bench alone."""

import time
from collections.abc import Callable
from typing import TypeVar

END_SECONDS = 240.0  # only a failing test waits so long, also on a machine that is busy with much else
PAUSE_SECONDS = 0.05

Answer = TypeVar("Answer")


def wait_until(condition: Callable[[], Answer], what: str = "what is waited for", *, seconds: float = END_SECONDS) -> Answer:
    """Return the first true answer of `condition`. Raises AssertionError, naming `what`, when none comes."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(PAUSE_SECONDS)
    return answer
