"""When a runner has to stop: asked at every step, group of scores and generated token; cheap enough for that."""

import os
import signal
from pathlib import Path
from types import FrameType

import psutil

from app.domain.run import Outcome

SUPERSEDED = "a newer attempt owns this run"


class Stopped(Exception):
    """Raised where work can be left off; `outcome` is cancelled or interrupted, `saves` whether a checkpoint comes first."""

    def __init__(self, outcome: Outcome, reason: str, *, saves: bool = False) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.saves = saves


class StopSignals:
    """The four reasons to stop: the user's `cancel` file, SIGTERM, a supervisor that is gone, a newer attempt."""

    def __init__(self, attempt_dir: Path, supervisor_pid: int | None = None) -> None:
        self._cancel = attempt_dir / "cancel"
        self._successor = attempt_dir.parent / str(int(attempt_dir.name) + 1) if attempt_dir.name.isdigit() else None
        self._supervisor_pid = supervisor_pid
        self._is_child = supervisor_pid is not None and os.getppid() == supervisor_pid
        self._terminated = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as a wish to stop after the current step."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

    def watch(self, supervisor_pid: int | None) -> None:
        """Stop as well when this process is gone."""
        self._supervisor_pid = supervisor_pid
        self._is_child = supervisor_pid is not None and os.getppid() == supervisor_pid

    def find(self) -> Stopped | None:
        """Return why to stop now, or None."""
        if self._cancel.exists():
            return Stopped(Outcome.CANCELLED, "cancelled by the user")
        if self._terminated:
            return Stopped(Outcome.INTERRUPTED, "the worker was told to stop", saves=True)
        if self._supervisor_gone():
            return Stopped(Outcome.INTERRUPTED, "the supervisor of this attempt is gone", saves=True)
        if self._successor is not None and self._successor.exists():
            return Stopped(Outcome.INTERRUPTED, SUPERSEDED)  # and its checkpoints belong to that one
        return None

    def refuse_superseded(self) -> None:
        """Raise Stopped when a newer attempt owns the run; asked before anything is written that it shares with this one."""
        if self._successor is not None and self._successor.exists():
            raise Stopped(Outcome.INTERRUPTED, SUPERSEDED)

    def check(self) -> None:
        """Raise Stopped when there is a reason to stop."""
        reason = self.find()
        if reason is not None:
            raise reason

    def _supervisor_gone(self) -> bool:
        if self._supervisor_pid is None:
            return False
        if self._is_child:
            return os.getppid() != self._supervisor_pid
        return not psutil.pid_exists(self._supervisor_pid)
