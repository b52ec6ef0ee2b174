"""Leases kept and judged, and whether a runner shows life.

A lease that ran out proves that its owner is gone only if it could have renewed it. A runner may be frozen from outside
(SIGSTOP, a debugger), or say nothing for very long.
"""

import time
from datetime import datetime

from app.services import attempts
from app.settings import Settings
from app.store.database import Database
from worker.supervision.process import is_frozen


class LeaseKeeper:
    """Renews one claim at every heartbeat; at once at first, as what came before may have taken a good part of the lease."""

    def __init__(self, database: Database, settings: Settings, claim: attempts.Claim) -> None:
        self._database, self._settings, self._claim = database, settings, claim
        self._renew_at = 0.0

    def renew(self) -> bool:
        """Renew when it is time to; return whether the run is to be cancelled, which is asked only then."""
        if time.monotonic() < self._renew_at:
            return False
        with self._database.writing() as session:
            wanted = attempts.renew(session, self._claim.run_id, self._claim.token, self._settings.lease_seconds)
        self._renew_at = time.monotonic() + self._settings.heartbeat_seconds
        return wanted


class LeaseJudge:
    """Compares the database's clock with this machine's steady one, from look to look."""

    def __init__(self, heartbeat_seconds: float) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._before: tuple[datetime, float] | None = None

    @property
    def has_looked(self) -> bool:
        """False before the first look, which alone can't tell a jump."""
        return self._before is not None

    def doubt(self, at: datetime, waited_seconds: float) -> str:
        """Return why nothing may be taken back now; empty when leases can be trusted.

        `at`: the database's time; `waited_seconds`: how long the database let us wait for our transaction.
        """
        tick = time.monotonic()
        before, self._before = self._before, (at, tick)
        if before is None:
            return ""
        jump = (at - before[0]).total_seconds() - (tick - before[1])
        if abs(jump) > self._heartbeat_seconds:
            return f"the database's clock jumped by {jump:.0f} s"
        if waited_seconds > self._heartbeat_seconds:
            return f"the database let everybody wait for {waited_seconds:.0f} s"
        return ""


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
        """Return whether the process has been frozen for as long as a worker may be silent: it then owns its run no longer."""
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
