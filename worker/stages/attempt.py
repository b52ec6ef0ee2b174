"""What every stage of an attempt shares: the spec, the spool, the wish to stop, and where artifacts go."""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from app.domain.events import ArtifactWritten, Event, FindingRaised, LogWritten, ProgressMade, StageStarted
from app.domain.jobs import JobSpec, RunSpec
from app.domain.recipe import Recipe
from app.domain.remedies import Temperatures, suggest_changes
from app.domain.run import Stage
from app.system.files import filling, hash_file, remove_unfinished, sync, writing
from worker.models.parallel import ALONE, Ranks
from worker.running.failpoints import reach
from worker.running.spool import Spool
from worker.running.stop import StopSignals

PROGRESS_SECONDS = 1.0  # a progress event at most this often


@dataclass
class JobContext:
    """One attempt at a run. Of several processes the lead's spool and artifacts are the run's; each other has its own."""

    spec: JobSpec
    spool: Spool
    stop: StopSignals
    ranks: Ranks = ALONE

    @property
    def artifacts_dir(self) -> Path:
        return (Path(self.spec.run_dir) if self.ranks.is_lead else self.spool.path.parent) / "artifacts"

    def check(self) -> None:
        """Raise Stopped when there is a reason to stop, on every process at the same point."""
        self.ranks.stop_together(self.stop.find() if self.ranks.is_lead else None)

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

    def write_artifact(self, name: str, title: str, data: bytes) -> None:
        """Write a file of the artifacts folder at once and announce it."""
        self.write_file(self.artifacts_dir / name, data)
        self.announce(name, title)

    def write_file(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all; a process that was superseded meanwhile leaves the file as it is."""
        with writing(path, self._may_appear) as temporary:
            temporary.write_bytes(data)

    def _may_appear(self) -> None:
        reach("artifact.written")
        self.refuse_superseded()

    def announce(self, name: str, title: str) -> None:
        path = self.artifacts_dir / name
        self.emit(ArtifactWritten(name=name, title=title, size_bytes=path.stat().st_size, sha256=hash_file(path)))

    def write_folders(self, titles: Mapping[str, str], write: Callable[[dict[str, Path]], None]) -> None:
        """Fill folders of the artifacts beside their places, then move all of them there, whole, and announce their files.

        `write` gets where each folder is to be filled, by its name; what it raises leaves none of them.
        """
        with ExitStack() as stack:
            filled = {name: stack.enter_context(filling(self.artifacts_dir / name)) for name in titles}
            write(filled)
            for temporary in filled.values():
                for path in temporary.rglob("*"):
                    sync(path)
            self._may_appear()
            for name, temporary in filled.items():
                shutil.rmtree(self.artifacts_dir / name, ignore_errors=True)
                temporary.rename(self.artifacts_dir / name)
        reach("artifact.placed")
        for name, title in titles.items():
            for path in sorted(path for path in (self.artifacts_dir / name).rglob("*") if path.is_file()):
                self.announce(str(path.relative_to(self.artifacts_dir)), title)


@dataclass
class AttemptContext(JobContext):
    """One attempt at what a recipe asks for."""

    spec: RunSpec
    constants: dict[str, float] = field(default_factory=dict)  # metrics that are the same at every step
    raised: set[str] = field(default_factory=set)  # names of findings that were told already
    temperatures: Callable[[], Temperatures] = Temperatures  # what is known of λ, once the batches are weighed

    @property
    def recipe(self) -> Recipe:
        return self.spec.recipe

    @property
    def day(self) -> date | None:
        """What chat templates take for today, in every attempt at the run; None: the day it is."""
        return self.recipe.tokens.template_date or self.spec.launched_on

    @property
    def checkpoints_dir(self) -> Path:
        return Path(self.spec.run_dir) / "checkpoints"

    def sweep_leftovers(self) -> None:
        """Remove the temporary files and folders that a killed attempt left among the artifacts and checkpoints."""
        remove_unfinished(self.artifacts_dir)
        remove_unfinished(self.checkpoints_dir)

    def raise_findings(self, findings: Iterable[FindingRaised]) -> None:
        """Tell each finding once in a run, with what its remedy would change in the recipe."""
        for finding in findings:
            if finding.name not in self.raised:
                self.raised.add(finding.name)
                changes = finding.changes or suggest_changes(finding.name, self.recipe.to_dict(), self.temperatures())
                self.emit(finding.model_copy(update={"changes": changes}))
