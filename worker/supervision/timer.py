"""When something is due again."""

import time


class Timer:
    """True at most once per `seconds`; the first time at once, or after `first`."""

    def __init__(self, seconds: float, first: float = 0.0) -> None:
        self.seconds = seconds
        self._next = time.monotonic() + first

    def is_due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self.seconds
        return True

    def postpone(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)
