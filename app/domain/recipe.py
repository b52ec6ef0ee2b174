"""A recipe: the frozen snapshot of every choice that changes a run's result.

The same class validates the launch form, the REST body, `varstudio train RECIPE.yaml` and the runner's spec.
A validated recipe is resolved: presets are expanded, so a stored recipe no longer depends on what a preset means later.
Mathematics of the settings: docs/method.md.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.errors import RecipeInvalid
from app.domain.problems import fault, parse

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Reference = Annotated[str, Field(min_length=1, max_length=400)]


class Settings(BaseModel):
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


class WeightSettings(Settings):
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


class LoraSettings(Settings):
    rank: int = Field(16, ge=1, le=1024, description="Rank of the low-rank update.")
    alpha: Positive = Field(32.0, description="Scale of the update; its factor is alpha / rank.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear"] | list[Annotated[str, Field(min_length=1, max_length=120)]] = Field(
        "all-linear", description="Modules that get an adapter: all-linear, or a list of module names."
    )


class PolicySettings(Settings):
    model: Reference = Field(description="The policy: a registered model's id, or for `varstudio train` a folder or hub name.")
    revision: str | None = Field(None, max_length=120, description="Hub revision (branch, tag or commit).")
    adaptation: Literal["full", "lora"] = Field("full", description="Train all weights, or a LoRA adapter.")
    lora: LoraSettings = LoraSettings()
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number type of weights and activations.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory, slower.")


class RewardSettings(Settings):
    source: Literal["model", "rating", "preference"] = Field(
        "preference", description="A reward model, the data set's rating column, or the preference label (+1 / −1)."
    )
    model: Reference | None = Field(None, description="The reward model (source: model).")
    revision: str | None = Field(None, max_length=120, description="Hub revision of the reward model (branch, tag or commit).")
    judge: Reference | None = Field(
        None, description="A reward model that only scores evaluation generations; the reward model itself when empty."
    )

    @model_validator(mode="after")
    def model_fits_source(self) -> Self:
        if self.source == "model" and self.model is None:
            raise fault("model", "Choose a reward model, or take the rewards from the rating or the preference.")
        if self.source != "model" and self.model is not None:
            raise fault(
                "model",
                f"Rewards come from the {self.source}: leave the reward model empty, or name it as judge.",
            )
        return self


class TokenSettings(Settings):
    max_prompt: int = Field(512, ge=1, le=1_000_000, description="Longest prompt, in tokens; longer ones lose their start.")
    max_response: int = Field(512, ge=1, le=1_000_000, description="Longest response, in tokens; longer ones lose their end.")
    overlong: Literal["truncate", "drop"] = Field("truncate", description="What happens to an example over these lengths.")
    prompt_format: Literal["auto", "chat", "plain"] = Field(
        "auto", description="auto: the tokenizer's chat template if it has one, otherwise plain Human/Assistant turns."
    )


class TrainingSettings(Settings):
    batch_size: int = Field(8, ge=1, le=65_536, description="B: prompts per optimizer step; Z(x) spans all of them.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Prompts per forward pass; empty: the whole batch. Changes memory, not the result.",
    )
    epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = Field(1.0, description="Passes over the data.")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimizer steps; when given it replaces epochs.")
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(1e-5, description="Peak of the schedule.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after its peak: along a cosine, in a straight line, or not at all."
    )
    warmup_share: Share = Field(0.03, description="Share of the steps over which the learning rate rises.")
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        0.0, description="AdamW's pull of the trained parameters towards 0; 0 switches it off."
    )
    grad_clip: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="Largest gradient norm; 0 switches clipping off."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Starts every random choice: held-out examples, order of batches, dropout.")
    checkpoint_every: int = Field(100, ge=1, le=10_000_000, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="How many of the newest checkpoints are kept.")

    @model_validator(mode="after")
    def micro_batch_fits(self) -> Self:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise fault("micro_batch_size", f"{self.micro_batch_size} is larger than batch_size {self.batch_size}.")
        if self.epochs is None and self.steps is None:
            raise fault("epochs", "Give epochs or steps.")
        return self


class EvaluationSettings(Settings):
    share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.05, description="Share of the examples held out of training."
    )
    every: int | None = Field(None, ge=1, le=10_000_000, description="Steps between evaluations; empty: about five in a run.")
    num_prompts: int = Field(32, ge=0, le=10_000, description="Held-out prompts that are answered at each evaluation.")
    num_samples_shown: int = Field(8, ge=0, le=200, description="How many of them are kept as side-by-side samples.")
    max_new_tokens: int = Field(128, ge=1, le=32_768, description="Longest answer to a held-out prompt, in tokens.")
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(1.0, description="0: greedy decoding.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="Nucleus sampling: only the likeliest tokens that together have this probability; 1: all of them."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Chooses the prompts that are answered, and the sampling of the answers.")


class Recipe(Settings):
    """A whole run. Errors name the field's dotted path, as the form, REST and the YAML file spell it."""

    name: str = Field("", max_length=120, description="A name for people; empty: made from data set and policy.")
    dataset: Reference = Field(description="The data set's id, or for `varstudio train` a file.")
    max_examples: int | None = Field(None, ge=2, le=2**31, description="Use only the first examples; empty: all.")
    policy: PolicySettings
    reward: RewardSettings = RewardSettings()
    weights: WeightSettings
    tokens: TokenSettings = TokenSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def reuse_rewards_without_a_model(cls, data: Any) -> Any:
        """A rating or a label can't be asked about another prompt's response, so a preset's `score` becomes `reuse`."""
        if not isinstance(data, dict):
            return data
        reward, weights = data.get("reward") or {}, data.get("weights")
        if isinstance(reward, dict) and isinstance(weights, dict):
            source = reward.get("source", "preference")
            if source != "model" and "cross_reward" not in weights:
                return {**data, "weights": {**weights, "cross_reward": "reuse"}}
        return data

    @model_validator(mode="after")
    def cross_rewards_have_a_model(self) -> Self:
        if self.weights.cross_reward == "score" and self.reward.source != "model":
            raise fault(
                "weights.cross_reward",
                f"The rewards come from the {self.reward.source}, which says nothing of other prompts' responses: "
                "set weights.cross_reward to reuse, or choose a reward model.",
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the field names users write (`lambda`)."""
        return self.model_dump(mode="json", by_alias=True)


def parse_recipe(data: Any) -> Recipe:
    """A recipe from plain data (JSON, YAML, a form); raises RecipeInvalid with every field at fault."""
    return parse(Recipe, data, RecipeInvalid)
