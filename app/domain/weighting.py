"""How the weights w(x, y) are made: the presets, and every choice the method leaves open (docs/method.md, section 2)."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.errors import RecipeInvalid
from app.domain.problems import fault

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
SMALLEST_TEMPERATURE = 1e-6  # rewards that are divided by less leave what 32-bit numbers hold
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class RecipePart(BaseModel):
    """Base of every part of a recipe: frozen, unknown fields refused, aliases and names both accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_enum_values=False)


class Preset(StrEnum):
    PAPER = "paper"
    LENGTH_NORMALISED = "length_normalised"
    WITHIN_PROMPT = "within_prompt"
    REWARD_WEIGHTED = "reward_weighted"


PRESETS: dict[Preset, dict[str, Any]] = {
    Preset.PAPER: {
        "weight_form": "posterior", "partition_scope": "batch", "logprob_norm": "sum", "cross_reward": "score",
        "reward_norm": "none", "loss_norm": "sequence_sum", "mean_one": False, "responses": "both",
    },
    Preset.LENGTH_NORMALISED: {
        "weight_form": "posterior", "partition_scope": "batch", "logprob_norm": "mean", "cross_reward": "score",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": True, "responses": "both",
    },
    Preset.WITHIN_PROMPT: {
        "weight_form": "ratio", "partition_scope": "prompt", "logprob_norm": "sum", "cross_reward": "reuse",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": True, "responses": "both",
    },
    Preset.REWARD_WEIGHTED: {
        "weight_form": "reward", "partition_scope": "batch", "logprob_norm": "sum", "cross_reward": "reuse",
        "reward_norm": "none", "loss_norm": "token_mean", "mean_one": True, "responses": "both",
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
    partition_scope: Literal["batch", "prompt"] = Field(
        "batch", description="Whose responses enter Z(x): all of the batch (cross-context), or the same prompt's only."
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
    mean_one: bool = Field(
        True, description="Rescale a batch's weights to mean 1, so λ and the batch size don't change the learning rate."
    )
    responses: Literal["both", "chosen"] = Field("both", description="Which responses enter the loss.")

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


def refuse_tiny(lambda_: float | None, smallest_lambda: float | None) -> None:
    """Raises RecipeInvalid for a λ that no reward can be divided by; no validator, as runs that were made with one are kept."""
    for field, value in (("weights.lambda", lambda_), ("scoring.smallest_lambda", smallest_lambda)):
        if value is not None and value < SMALLEST_TEMPERATURE:
            raise RecipeInvalid.at(
                field, f"λ is {value:g}, and rewards can't be divided by so little: take {SMALLEST_TEMPERATURE:g} or more."
            )
