"""How fast an endpoint is asked: waits that end when the work does, tries that are spaced, tokens per minute that are kept."""

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

STEP_SECONDS = 0.2
MINUTE_SECONDS = 60.0


@dataclass(frozen=True)
class Retries:
    """How often a request is tried, and how long is waited between two tries."""

    num_tries: int = 6
    first_seconds: float = 1.0  # doubled each time
    most_seconds: float = 60.0
    most_asked_seconds: float = 300.0  # that the server may ask for by Retry-After

    def delay(self, num_tried: int) -> float:
        """Return how long to wait after so many tries, spread so that many who wait do not come back together."""
        return min(self.most_seconds, self.first_seconds * 2.0 ** (num_tried - 1)) * random.uniform(0.75, 1.25)


class Clock:
    """The time, and waiting in it; `check` is asked again and again meanwhile, and what it raises ends the waiting."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._check()
            time.sleep(min(STEP_SECONDS, left))


class Pace:
    """Tokens per minute: who asks for more than are left waits until they have come in again. For several threads."""

    def __init__(self, tokens_per_minute: int | None, clock: Clock) -> None:
        self._most, self._clock = tokens_per_minute, clock
        self._left, self._at = float(tokens_per_minute or 0), clock.now()
        self._lock = threading.Lock()

    def take(self, num_tokens: int) -> None:
        """Wait until so many tokens may be asked for; more than a minute's are asked for once a whole minute's are there."""
        while (seconds := self._try(num_tokens)) > 0:
            self._clock.wait(seconds)

    def give_back(self, num_tokens: int) -> None:
        """Correct what was taken by a guess; a negative number takes more."""
        with self._lock:
            self._left += num_tokens

    def _try(self, num_tokens: int) -> float:
        """Take the tokens and return 0, or return how long until they may be there."""
        if self._most is None:
            return 0.0
        with self._lock:
            now = self._clock.now()
            self._left = min(float(self._most), self._left + (now - self._at) * self._most / MINUTE_SECONDS)
            self._at = now
            missing = min(num_tokens, self._most) - self._left
            if missing <= 0:
                self._left -= num_tokens
                return 0.0
            return missing * MINUTE_SECONDS / self._most


def read_retry_after(text: str | None) -> float | None:
    """Return how many seconds a Retry-After header asks for: a number or a date; None for one that can't be read."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
