"""Whether a runner shows life: it may be frozen from outside (SIGSTOP, a debugger), or say nothing for very long."""

import time

from worker.process import is_frozen


class Liveness:
    """What one runner shows. Told by `heard` that it wrote, asked at every tick of the supervisor."""

    def __init__(self, pid: int, *, frozen_seconds: float, silent_seconds: float) -> None:
        self._pid, self._frozen_seconds, self._silent_seconds = pid, frozen_seconds, silent_seconds
        self._frozen_since: float | None = None
        self._heard_at = time.monotonic()
        self._is_told = False

    def heard(self) -> None:
        """The runner wrote something."""
        self._heard_at, self._is_told = time.monotonic(), False

    def is_lost(self) -> bool:
        """Whether the process has been frozen for as long as a worker may be silent: it then owns its run no longer."""
        if not is_frozen(self._pid):
            self._frozen_since = None
            return False
        self._frozen_since = self._frozen_since or time.monotonic()
        return time.monotonic() - self._frozen_since > self._frozen_seconds

    def find_silence(self) -> float | None:
        """For how many seconds nothing was heard, when that is too long; told once in a silence."""
        seconds = time.monotonic() - self._heard_at
        if self._is_told or seconds <= self._silent_seconds:
            return None
        self._is_told = True
        return seconds
