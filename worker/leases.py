"""Whether leases can be judged now. A lease that ran out proves that its owner is gone only if it could have renewed it."""

import time
from datetime import datetime


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
        """Why nothing may be taken back now; empty when leases can be trusted.

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
