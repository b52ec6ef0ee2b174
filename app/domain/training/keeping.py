"""Which model a run keeps, and when it stops before its last step: the settings, and the rules on plain numbers.

Both rest on the validation set alone. An evaluation is judged by the first of these that it has: the reward gained, the pairs
that a reward model tells apart, the preferences told apart, the held-out loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from app.domain.metrics import CATALOGUE
from app.domain.problems import fault
from app.domain.training.methods import Method
from app.domain.weighting import Positive, RecipePart
from app.system.numbers import number

JUDGED_BY = ("eval/reward_gain", "eval/pair_accuracy", "eval/preference_accuracy", "eval/loss")
KL = "eval/kl"
USUAL_EVALUATIONS = 5  # in a run whose recipe doesn't say how often

Metrics = Mapping[str, float | None]


class KeepSettings(RecipePart):
    """The run's model, and the rules by which it stops early. A loss that stays not finite ends training in any case."""

    model: Literal["last", "best"] = Field(
        "last", description="The run's model. last: of the last step. best: of the evaluation that is best on validation."
    )
    step: int | None = Field(
        None, ge=1, le=10_000_000,
        description="Stop after this step, whose model is the run's: to take a point of a sweep's frontier as a model.",
    )  # fmt: skip
    kl_budget: Positive | None = Field(
        None, description="Nats that the best model may be away from the reference on validation prompts; empty: any distance."
    )
    patience: int | None = Field(
        None, ge=1, le=10_000, description="Stop after so many evaluations in a row without a better one; empty: never."
    )
    stop_over_budget: bool = Field(False, description="Stop at the first evaluation whose KL is above the budget.")

    @property
    def is_asked(self) -> bool:
        """True when an evaluation decides anything."""
        return self.model == "best" or self.patience is not None or self.stop_over_budget

    @property
    def deciding(self) -> str:
        """The setting by which evaluations decide."""
        rule = "patience" if self.patience is not None else "stop_over_budget" if self.stop_over_budget else "model"
        return f"keep.{rule}"

    @model_validator(mode="after")
    def one_choice_of_the_model(self) -> Self:
        if self.step is not None and (self.model == "best" or self.patience is not None or self.stop_over_budget):
            raise fault("step", "A step that is named is kept whatever the evaluations say: leave the rules of the best out.")
        return self

    @model_validator(mode="after")
    def budget_is_read(self) -> Self:
        if self.stop_over_budget and self.kl_budget is None:
            raise fault(
                "stop_over_budget", "There is no KL budget to be over, so this rule can never stop a run: give keep.kl_budget."
            )
        if self.kl_budget is not None and self.model == "last" and not self.stop_over_budget:
            raise fault("kl_budget", "Nothing reads the KL budget: set keep.model to best, or keep.stop_over_budget to true.")
        return self


@dataclass(frozen=True)
class Evaluations:
    """What a run evaluates: the share that is held out, the prompts that are answered, the steps between, and its steps.

    `num_steps` None: not known yet.
    """

    method: Method
    share: float
    num_prompts: int
    every: int | None
    num_steps: int | None

    @property
    def most(self) -> int | None:
        """How many there are after the first step, at most; None: not known."""
        if self.num_steps is None:
            return USUAL_EVALUATIONS if self.every is None else None
        return math.ceil(self.num_steps / (self.every or max(1, math.ceil(self.num_steps / USUAL_EVALUATIONS))))


def find_idle_rule(keep: KeepSettings, planned: Evaluations) -> tuple[str, str] | None:
    """Return the field and the sentence of a rule that can never do anything; None: there is none."""
    if keep.step is not None and planned.num_steps is not None and keep.step >= planned.num_steps:
        return "keep.step", (
            f"The run has {planned.num_steps} steps, so it ends with the model of step {planned.num_steps} anyway: take an "
            "earlier step, or leave it empty."
        )
    if not keep.is_asked:
        return None
    if planned.share == 0:
        return keep.deciding, "Nothing is held out, so nothing is evaluated that could decide this: raise evaluation.share."
    if keep.kl_budget is not None and (planned.method is Method.REWARD_MODEL or planned.num_prompts == 0):
        why = "A reward model gives no answers" if planned.method is Method.REWARD_MODEL else "No validation prompt is answered"
        return "keep.kl_budget", f"{why}, so no KL is measured that the budget could bound: leave it empty."
    most = planned.most
    if keep.patience is not None and most is not None and keep.patience >= most:
        if most == 1:
            return "keep.patience", (
                "It can never stop this run, which is evaluated only at its end: evaluate more often (evaluation.every)."
            )
        return "keep.patience", (
            f"It can never stop this run: {keep.patience} evaluations without a better one are over only when the run is, as "
            f"there are {most} after its first step. Take {most - 1} or less, or evaluate more often (evaluation.every)."
        )
    if keep.stop_over_budget and most == 1:
        return "keep.stop_over_budget", (
            "It can never stop this run, which is evaluated only at its end: evaluate more often (evaluation.every)."
        )
    return None


@dataclass
class Selection:
    """What the evaluations so far have decided; all of it is in every checkpoint.

    `best_step` 0: no model was evaluated yet. `bar`: the best that was within the budget, the untrained model included.
    """

    key: str = ""
    best_step: int = 0
    best_value: float | None = None
    best_kl: float | None = None
    is_within: bool = False
    start_value: float | None = None
    bar: float | None = None
    num_stale: int = 0
    stopped: str = ""  # why training ended before its last step

    def take(self, metrics: Metrics, step: int, keep: KeepSettings, method: Method) -> bool:
        """Judge an evaluation; returns whether its model is the best so far. Sets `stopped` where a rule fires."""
        value, kl = self._read(metrics, method), metrics.get(KL)
        within = keep.kl_budget is None or (kl is not None and kl <= keep.kl_budget)
        score = None if value is None else self._score(value)
        is_gain = within and score is not None and (self.bar is None or score > self.bar)
        self.bar = score if is_gain else self.bar
        if step == 0:
            self.start_value = value
            return False
        self.num_stale = 0 if is_gain else self.num_stale + 1
        is_best = self.best_step == 0 or self._rank(within, value, kl) > self._rank(self.is_within, self.best_value, self.best_kl)
        if is_best:
            self.best_step, self.best_value, self.best_kl, self.is_within = step, value, kl, within
        self.stopped = self.stopped or self._find_stop(keep, kl)
        return is_best

    def _read(self, metrics: Metrics, method: Method) -> float | None:
        if not self.key:
            known = [key for key in JUDGED_BY if metrics.get(key) is not None]
            if method is Method.SFT and "eval/reward_gain" not in known:
                known = [key for key in known if key == "eval/loss"]
            self.key = known[0] if known else ""
        return metrics.get(self.key)

    def _score(self, value: float) -> float:
        return -value if CATALOGUE[self.key].better == "down" else value

    def _rank(self, within: bool, value: float | None, kl: float | None) -> tuple[bool, float]:
        """Within the budget the better figure is better, outside of it the nearer model."""
        if within:
            return True, -math.inf if value is None else self._score(value)
        return False, -math.inf if kl is None else -kl

    def _find_stop(self, keep: KeepSettings, kl: float | None) -> str:
        if keep.stop_over_budget and kl is not None and keep.kl_budget is not None and kl > keep.kl_budget:
            return f"its KL of {number(kl)} nats was above the budget of {number(keep.kl_budget)}"
        if keep.patience is not None and self.num_stale >= keep.patience:
            many = f"{self.num_stale} evaluations in a row were" if self.num_stale > 1 else "an evaluation was"
            return f"{many} no better than the best before"
        return ""


def tell_kept(standing: Selection, keep: KeepSettings, last_step: int, num_steps: int) -> str:
    """Return which model the run keeps and why, in sentences; empty where it is that of the last of all steps, unasked."""
    if keep.step is not None and keep.step == last_step < num_steps:
        return f"The model is that of step {last_step} of {num_steps}, as the recipe asks."
    told = []
    if keep.model == "best" and standing.best_step:
        told.append(_tell_best(standing, keep, last_step))
    if standing.stopped:
        told.append(f"Training stopped after step {last_step} of {num_steps}, as {standing.stopped}.")
        if not told[1:] and keep.model == "last":
            told.append("The model is that of this step.")
    return " ".join(told)


def _tell_best(standing: Selection, keep: KeepSettings, last_step: int) -> str:
    which = "the last step" if standing.best_step == last_step else f"step {standing.best_step}"
    kl = "" if standing.best_kl is None else f"KL {number(standing.best_kl)}"
    if not standing.is_within:
        return (
            f"No evaluation was within the KL budget of {number(keep.kl_budget or 0.0)} nats: the model is that of {which}, the "
            f"nearest to the reference{f' ({kl})' if kl else ''}."
        )
    if standing.best_value is None:
        return f"The model is that of {which}: no evaluation told models apart."
    figure = f"{CATALOGUE[standing.key].title.lower()} {number(standing.best_value)}"
    bound = f" of at most {number(keep.kl_budget)}" if keep.kl_budget is not None else ""
    told = f"The model is that of {which}, the best on validation ({figure}{f', {kl}{bound} nats' if kl else ''})."
    start = standing.start_value
    if start is not None and standing._score(standing.best_value) <= standing._score(start):
        told += f" None was better than the untrained model ({number(start)})."
    return told
