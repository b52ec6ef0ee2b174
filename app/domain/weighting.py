"""How the weights w(x, y) are made: the presets, and every choice the method leaves open (docs/method.md, section 2)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.domain.errors import RecipeInvalid
from app.domain.problems import fault

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
SMALLEST_TEMPERATURE = 1e-6  # rewards that are divided by less leave what 32-bit numbers hold
MOST_DRAWS = 256  # of each prompt
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RecipePart(BaseModel):
    """Base of every part of a recipe: frozen, unknown fields refused, aliases and names both accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_enum_values=False)


def read_scale(value: Any) -> Any:
    """Return `mean_one` by its name; what was a switch once, yes and no, is still taken: per batch, or not at all."""
    text = value.strip().lower() if isinstance(value, str) else value
    if text in (True, "true", "yes", "1"):
        return "batch"
    return "off" if text in (False, "false", "no", "0") else value


class Preset(StrEnum):
    PAPER = "paper"
    LENGTH_NORMALISED = "length_normalised"
    WITHIN_PROMPT = "within_prompt"
    REWARD_WEIGHTED = "reward_weighted"
    DRAWS = "draws"


PRESETS: dict[Preset, dict[str, Any]] = {
    Preset.PAPER: {
        "weight_form": "posterior", "partition_scope": "batch", "logprob_norm": "sum", "cross_reward": "score",
        "reward_norm": "none", "loss_norm": "sequence_sum", "mean_one": "off", "responses": "both",
    },
    Preset.LENGTH_NORMALISED: {
        "weight_form": "posterior", "partition_scope": "batch", "logprob_norm": "mean", "cross_reward": "score",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": "batch", "responses": "both",
    },
    Preset.WITHIN_PROMPT: {
        "weight_form": "ratio", "partition_scope": "prompt", "logprob_norm": "sum", "cross_reward": "reuse",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": "batch", "responses": "both",
    },
    Preset.REWARD_WEIGHTED: {
        "weight_form": "reward", "partition_scope": "batch", "logprob_norm": "sum", "cross_reward": "reuse",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": "batch", "responses": "both",
    },
    Preset.DRAWS: {
        "weight_form": "ratio", "partition_scope": "draws", "logprob_norm": "sum", "cross_reward": "reuse",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": "dataset", "responses": "both",
    },
}  # fmt: skip

DEFAULT_PRESET = Preset.LENGTH_NORMALISED


class WeightSettings(RecipePart):
    """How w(x, y) is made: method.md section 2. `lambda` is the temperature λ, in units of the (normalised) reward."""

    preset: Preset = Field(DEFAULT_PRESET, description="A named set of the choices below.")
    lambda_: Positive | None = Field(
        None,
        alias="lambda",
        description="Temperature λ > 0. Small: only the best responses count; large: all count alike.",
    )
    target_ess: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Instead of λ: the wanted effective sample size as a share of the batch; "
        "λ is then found from the cached scores.",
    )
    fallback: Literal["none", "reward_std"] = Field(
        "none",
        description="Where no λ gives the wanted effective sample size. none: the run is refused. reward_std: λ is the "
        "standard deviation of the rewards.",
    )
    weight_form: Literal["posterior", "ratio", "reward"] = Field(
        "posterior",
        description="posterior: softmax of log π_ref + r/λ over the candidates. ratio: exp(r/λ)/Z, the importance "
        "weight. reward: exp(r/λ) alone, without the reference.",
    )
    partition_scope: Literal["batch", "prompt", "draws"] = Field(
        "batch",
        description="Whose responses enter Z(x): all of the batch (cross-context), the same prompt's only, or draws: fresh "
        "answers of the reference to the prompt, made once.",
    )
    logprob_norm: Literal["sum", "mean"] = Field(
        "mean", description="log π_ref in the weight: summed over the response's tokens, or their mean."
    )
    cross_reward: Literal["score", "reuse"] = Field(
        "score",
        description="Reward of another prompt's response: asked of the reward model, or its own reward reused.",
    )
    reward_norm: Literal["none", "zscore"] = Field(
        "none",
        description="zscore: rewards in standard deviations of the scored data set, so λ means the same anywhere.",
    )
    loss_norm: Literal["token_mean", "sequence_sum", "sequence_mean"] = Field(
        "token_mean", description="How log π_θ enters the loss: per token of the batch, summed, or per-response mean."
    )
    mean_one: Annotated[Literal["batch", "dataset", "off"], BeforeValidator(read_scale)] = Field(
        "batch",
        description="batch: each batch to mean 1, which also weighs a response by its partners. dataset: all weights by one "
        "constant. λ then doesn't change the learning rate.",
    )
    plans: int = Field(
        1,
        ge=1,
        le=64,
        description="Weights are means over so many plans, so who meets whom counts for less. Where Z(x) spans the batch, "
        "each is scored in full.",
    )
    responses: Literal["both", "chosen", "draws", "all"] = Field(
        "both",
        description="Which responses enter the loss: the data's (both, or the chosen ones), the draws of the reference, or all.",
    )

    @model_validator(mode="before")
    @classmethod
    def expand_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            preset = Preset(data.get("preset", DEFAULT_PRESET))
        except ValueError:
            return data  # the field's own check names the known presets
        return {**PRESETS[preset], **data}

    @model_validator(mode="after")
    def one_of_lambda_and_target(self) -> Self:
        if self.lambda_ is None and self.target_ess is None:
            raise fault("lambda", "Give lambda, or target_ess to have λ found for you.")
        if self.lambda_ is not None and self.target_ess is not None:
            raise fault("target_ess", "Give lambda or target_ess, not both.")
        return self


class DrawsSettings(RecipePart):
    """Draws of the reference, for `partition_scope: draws`: K answers to every training prompt, made and rewarded once."""

    num_draws: int = Field(16, le=MOST_DRAWS, description="K: answers of the reference to each prompt, 2 or more.")
    max_new_tokens: int = Field(128, ge=1, le=32_768, description="Longest draw, in tokens.")
    temperature: float = Field(1.0, description="1: any other would not be a draw of the reference.")
    top_p: float = Field(1.0, description="1, for the same reason.")
    seed: int = Field(0, ge=0, lt=2**63, description="Starts the random numbers of the draws.")

    @model_validator(mode="after")
    def are_draws_of_the_reference(self) -> Self:
        if self.num_draws < 2:
            raise fault("num_draws", "Z(x) as the mean over draws takes two of them or more: with one its error is not known.")
        for name, value in (("temperature", self.temperature), ("top_p", self.top_p)):
            if value != 1:
                raise fault(
                    name,
                    f"At {name} {value:g} the answers are no draws of the reference, so Z(x) and with it every weight would be "
                    "wrong: leave it at 1.",
                )
        return self


def find_draws_fault(weights: WeightSettings, method: str, reward_source: str, *, is_online: bool) -> tuple[str, str] | None:
    """Return the field and the sentence of what doesn't fit draws of the reference, or fresh responses; None where all does."""
    if is_online and weights.plans > 1:
        return (
            "weights.plans",
            "Fresh responses are weighed within their prompt, where no partner counts: leave weights.plans at 1.",
        )
    if weights.responses in ("draws", "all") and (method != "var" or weights.partition_scope != "draws"):
        return (
            "weights.responses",
            f"{weights.responses} trains on draws of the reference, which are made for VAR with weights.partition_scope draws: "
            "set that, or take both or chosen.",
        )
    if method != "var" or weights.partition_scope != "draws":
        return None
    if weights.weight_form != "ratio":
        return "weights.weight_form", "With Z(x) from draws the weight is exp(r/λ)/Z(x): set weights.weight_form to ratio."
    if reward_source != "model":
        return (
            "reward.source",
            f"The draws of the reference have no {reward_source}, as nobody has seen them: choose a reward model (one may be "
            "trained here from the same pairs), or another weights.partition_scope.",
        )
    if is_online:
        return (
            "online.every",
            "Fresh responses of the policy bring their own Z(x), so draws of the reference would be made for nothing: leave it "
            "empty, or set weights.partition_scope to prompt.",
        )
    return None


def find_idle_draws(weights: WeightSettings, method: str) -> tuple[str, str] | None:
    """Return the field and the sentence of draws that a method without weights would not make; None where there are none."""
    if method == "var" or weights.partition_scope != "draws":
        return None
    return "weights.partition_scope", (
        f"{method} makes no weights, so draws of the reference would not be made: take method var, or leave weights.preset and "
        "weights.partition_scope out (in a sweep, name the method as a baseline)."
    )


def find_idle_plans(weights: WeightSettings, method: str) -> tuple[str, str] | None:
    """Return the field and the sentence of further batch plans by which no weight differs; None where some do."""
    crosses = weights.partition_scope == "batch" and weights.weight_form != "reward"
    if method != "var" or weights.plans == 1 or weights.mean_one == "batch" or crosses:
        return None
    return "weights.plans", (
        "No weight depends on which prompts meet in a batch here, so further plans would change nothing: leave weights.plans "
        "at 1."
    )


def name_scale(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored recipe with `weights.mean_one` as it is named now: it may be older than its third choice."""
    weights = recipe.get("weights")
    if not isinstance(weights, Mapping) or "mean_one" not in weights:
        return dict(recipe)
    return {**recipe, "weights": {**weights, "mean_one": read_scale(weights["mean_one"])}}


def refuse_tiny(lambda_: float | None, smallest_lambda: float | None) -> None:
    """Raises RecipeInvalid for a λ that no reward can be divided by; no validator, as runs that were made with one are kept."""
    for field, value in (("weights.lambda", lambda_), ("scoring.smallest_lambda", smallest_lambda)):
        if value is not None and value < SMALLEST_TEMPERATURE:
            raise RecipeInvalid.at(
                field, f"λ is {value:g}, and rewards can't be divided by so little: take {SMALLEST_TEMPERATURE:g} or more."
            )
