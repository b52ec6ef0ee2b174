"""A runner that waits: it has imported torch and all that runs on it, seconds before there is an attempt for it.

It is what a cold start would have made of the same command and environment, a process of its own and a child of this one. What
it waits for comes through its standard input, which the end of this process closes: then it leaves, as after idle minutes.
"""

import logging
import subprocess
import time
from collections.abc import Mapping, Sequence

from worker.supervision.process import Spawned, spawn

SETTLE_SECONDS = 10.0  # after a run has begun: its own start has the cores first

log = logging.getLogger(__name__)


class Standby:
    """At most one waiting runner. `want` may come from any thread, all else is for the supervisor's."""

    def __init__(self, command: Sequence[str], keep_seconds: float) -> None:
        """`keep_seconds`: how long one waits after it was last likely to be wanted; 0: none is ever started."""
        self._command, self._keep_seconds = (*command, "--wait"), keep_seconds
        self._wanted_from, self._wanted_until = 0.0, 0.0
        self._waiting: Spawned | None = None

    @property
    def pid(self) -> int | None:
        """The waiting process."""
        return self._waiting.popen.pid if self._waiting is not None else None

    def want(self, after_seconds: float = 0.0) -> None:
        """Say that a run is likely to begin."""
        self._wanted_from = time.monotonic() + after_seconds
        self._wanted_until = self._wanted_from + self._keep_seconds

    def look(self, environment: Mapping[str, str]) -> None:
        """Start, replace or end the waiting runner, so that the one there is suits an attempt with this environment."""
        is_wanted = time.monotonic() < self._wanted_until
        if not (is_wanted and self._suits(environment)):
            self.end()
        if self._waiting is None and is_wanted and time.monotonic() >= self._wanted_from:
            self._waiting = spawn(self._command, None, environment, subprocess.PIPE)
            log.info("a runner waits: process %d", self._waiting.popen.pid)

    def take(self, environment: Mapping[str, str]) -> Spawned | None:
        """Give the waiting runner away; None when there is none for this environment, so that one has to be started."""
        if not self._suits(environment):
            return None
        taken, self._waiting = self._waiting, None
        return taken

    def end(self) -> None:
        """End the waiting runner."""
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None

    def _suits(self, environment: Mapping[str, str]) -> bool:
        waiting = self._waiting
        return waiting is not None and waiting.popen.poll() is None and waiting.environment == dict(environment)
