"""Where a training stands, what it works with, and the files that grow with it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain.training.keeping import USUAL_EVALUATIONS, Selection
from worker.stages.attempt import AttemptContext
from worker.stages.training.memory import MemoryWatch
from worker.stages.training.objectives import Objective
from worker.stages.training.optimizer import Optimizer

LOGS = ("metrics.jsonl", "samples.jsonl", "responses.jsonl")  # grown by steps and evaluations

Judge = Callable[[int], dict[str, float | None]]  # at a step


@dataclass
class TrainingProgress:
    """Where the training stands; all of it is in every checkpoint."""

    step: int = 0
    evaluated_step: int = -1
    is_finished: bool = False  # the test set was read
    bad_steps: int = 0
    tokens: int = 0  # trained on or drawn to be
    seconds: float = 0.0  # of scoring, rounds and steps; not of evaluations
    history: dict[str, list[int]] = field(default_factory=dict)
    recent: list[dict[str, float | None]] = field(default_factory=list)
    summary: dict[str, float | None] = field(default_factory=dict)
    standing: Selection = field(default_factory=Selection)

    @classmethod
    def revive(cls, state: Mapping[str, Any]) -> "TrainingProgress":
        """Return what a checkpoint holds."""
        return cls(**{**state, "standing": Selection(**state.get("standing", {}))})


@dataclass(frozen=True)
class Training:
    """Everything the loop works with. `evaluate` reports on the model at a step, `finish` on the trained one, by prompts that
    nothing read before; None where no such prompts are held out.
    """

    attempt: AttemptContext
    model: Any  # a LanguageModel, or the Body of a reward model: whichever the objective takes
    optimizer: Optimizer
    objective: Objective[Any, Any]
    evaluate: Judge | None
    finish: Judge | None
    num_steps: int
    progress: TrainingProgress
    memory: MemoryWatch

    @property
    def eval_every(self) -> int:
        return self.attempt.recipe.evaluation.every or max(1, math.ceil(self.num_steps / USUAL_EVALUATIONS))

    @property
    def is_over(self) -> bool:
        """True when no step follows."""
        return self.progress.step >= self.num_steps or bool(self.progress.standing.stopped)

    @property
    def keeps_best(self) -> bool:
        """True when there is a model of an evaluation that is to be the run's."""
        return self.attempt.recipe.keep.model == "best" and self.progress.standing.best_step > 0

    @property
    def kept_step(self) -> int:
        """The step whose model is the run's, as far as is known."""
        return self.progress.standing.best_step if self.keeps_best else self.progress.step


def append_log(attempt: AttemptContext, line: Mapping[str, Any]) -> None:
    attempt.refuse_superseded()
    with (attempt.artifacts_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def rewind_log(attempt: AttemptContext, progress: TrainingProgress) -> None:
    """Take out of the files that grow what an earlier attempt wrote after the step that this one goes on from."""

    def keep(line: Mapping[str, Any]) -> bool:
        if line.get("kind") == "final" or line.get("set") == "test":
            return progress.is_finished
        return bool(line["step"] <= (progress.step if line.get("kind") == "step" else progress.evaluated_step))

    for name in LOGS:
        path = attempt.artifacts_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                if keep(json.loads(text)):
                    kept.append(text + "\n")
            except ValueError:
                continue  # the torn last line of a killed attempt
        attempt.write_file(path, "".join(kept).encode())
