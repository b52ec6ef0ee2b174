"""How tests wait: for an event, with one generous end for them all. How long something takes is asked by make bench alone."""

import time
from collections.abc import Callable
from typing import TypeVar

END_SECONDS = 240.0  # only a failing test waits so long, also on a machine that is busy with much else
PAUSES = 0.05, 0.25  # the shortest and the longest
PAUSE_SHARE = 0.05  # of what was waited so far: a long wait is not asked after more often than it matters

Answer = TypeVar("Answer")


def wait_until(condition: Callable[[], Answer], what: str = "what is waited for", *, seconds: float = END_SECONDS) -> Answer:
    """Return the first true answer of `condition`. Raises AssertionError, naming `what`, when none comes."""
    began = time.monotonic()
    while not (answer := condition()):
        waited = time.monotonic() - began
        assert waited < seconds, f"{what} did not happen within {seconds:g} s"
        time.sleep(min(max(PAUSES[0], PAUSE_SHARE * waited), PAUSES[1]))
    return answer
