"""What every stage of a recipe's attempt shares: the recipe, its place among the run's processes, and where artifacts go."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from app.domain.events import ArtifactWritten, FindingRaised
from app.domain.jobs import RunSpec
from app.domain.recipe import Recipe
from app.domain.remedies import Temperatures, suggest_changes
from app.system.files import filling, hash_file, remove_unfinished, sync
from worker.models.parallel import ALONE, Ranks
from worker.running.failpoints import reach
from worker.stages.job import JobContext


@dataclass
class AttemptContext(JobContext):
    """One attempt at what a recipe asks for. Of several processes the lead's spool and artifacts are the run's; each other has
    its own.
    """

    spec: RunSpec
    ranks: Ranks = ALONE
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
    def artifacts_dir(self) -> Path:
        return (Path(self.spec.run_dir) if self.ranks.is_lead else self.spool.path.parent) / "artifacts"

    @property
    def checkpoints_dir(self) -> Path:
        return Path(self.spec.run_dir) / "checkpoints"

    def check(self) -> None:
        """Raise Stopped when there is a reason to stop, on every process at the same point."""
        self.ranks.stop_together(self.stop.find() if self.ranks.is_lead else None)

    def write_artifact(self, name: str, title: str, data: bytes) -> None:
        """Write a file of the artifacts folder at once and announce it."""
        self.write_file(self.artifacts_dir / name, data)
        self.announce(name, title)

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
            self.may_appear()
            for name, temporary in filled.items():
                shutil.rmtree(self.artifacts_dir / name, ignore_errors=True)
                temporary.rename(self.artifacts_dir / name)
        reach("artifact.placed")
        for name, title in titles.items():
            for path in sorted(path for path in (self.artifacts_dir / name).rglob("*") if path.is_file()):
                self.announce(str(path.relative_to(self.artifacts_dir)), title)

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
