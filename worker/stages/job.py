"""What every attempt has, whatever it does: the spec, the spool, the wish to stop, and files that appear whole. Without torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.domain.events import Event, LogWritten, ProgressMade, StageStarted
from app.domain.jobs import JobSpec
from app.domain.run import Stage
from app.system.files import writing
from worker.running.failpoints import reach
from worker.running.spool import Spool
from worker.running.stop import StopSignals

PROGRESS_SECONDS = 1.0  # a progress event at most this often


@dataclass
class JobContext:
    """One attempt at a run."""

    spec: JobSpec
    spool: Spool
    stop: StopSignals

    def refuse_superseded(self) -> None:
        """Raise Stopped when a newer attempt owns the run's folder: a frozen process may wake up in the middle of a step."""
        self.stop.refuse_superseded()

    def emit(self, event: Event) -> None:
        self.spool.write(event)

    def log(self, text: str, level: str = "info") -> None:
        self.spool.write(LogWritten.model_validate({"level": level, "text": text}))

    def start_stage(self, stage: Stage, total: int | None = None, unit: str = "") -> Callable[[int, int], None]:
        """Announce a stage; the result reports (done, total), not too often, and stops the attempt when it should stop."""
        self.emit(StageStarted(stage=stage, total=total, unit=unit))
        last = time.monotonic()

        def progress(done: int, whole: int) -> None:
            nonlocal last
            self.stop.check()
            if time.monotonic() - last >= PROGRESS_SECONDS or done == whole:
                last = time.monotonic()
                self.emit(ProgressMade(stage=stage, done=done, total=whole))

        return progress

    def write_file(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all; a process that was superseded meanwhile leaves the file as it is."""
        with writing(path, self.may_appear) as temporary:
            temporary.write_bytes(data)

    def may_appear(self) -> None:
        """Raise Stopped where what was written must not take its place any more."""
        reach("artifact.written")
        self.refuse_superseded()
