"""How long a thing may take: make bench holds it, on a machine that does nothing else. `make test` runs the same test without."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Holds seconds against their limits where it `is_strict`."""

    is_strict: bool

    def check(self, seconds: float, limit: float) -> None:
        assert not self.is_strict or seconds <= limit, f"{seconds:.3f} s, where {limit:g} are allowed"

    @contextmanager
    def within(self, limit: float) -> Iterator[None]:
        """The block takes at most `limit` seconds."""
        began = time.perf_counter()
        yield
        self.check(time.perf_counter() - began, limit)
