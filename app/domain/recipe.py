"""A recipe: the frozen snapshot of every choice that changes a run's result.

The same class validates the launch form, the REST body, `varstudio train RECIPE.yaml` and the runner's spec.
A validated recipe is resolved: presets are expanded, so a stored recipe no longer depends on what a preset means later.
Mathematics of the settings: docs/method.md.
"""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.domain.errors import RecipeInvalid
from app.domain.problems import fault, parse, summary
from app.domain.texts import Line, Reference
from app.domain.training.keeping import Evaluations, KeepSettings, find_idle_rule
from app.domain.training.methods import ON_GROUPS, Method, propose_rate
from app.domain.training.rewards import RewardSettings, find_idle_care
from app.domain.training.settings import (
    DpoSettings,
    GroupSettings,
    IpoSettings,
    KtoSettings,
    OnlineSettings,
    OrpoSettings,
    SimpoSettings,
    TrainingSettings,
)
from app.domain.weighting import (
    DEFAULT_PRESET,
    PRESETS,
    DrawsSettings,
    Positive,
    Preset,
    RecipePart,
    Share,
    WeightSettings,
    find_draws_fault,
    find_idle_draws,
    find_idle_plans,
    refuse_tiny,
)  # fmt: skip

__all__ = ["DEFAULT_PRESET", "PRESETS", "Method", "Preset", "Recipe", "WeightSettings", "parse_recipe", "revive_recipe"]

SplitRule = Literal["conversation", "prompt"]
ModuleName = Annotated[str, Field(min_length=1, max_length=120)]


class LoraSettings(RecipePart):
    rank: int = Field(16, ge=1, le=1024, description="Rank of the low-rank update.")
    alpha: Positive = Field(32.0, description="Scale of the update; its factor is alpha / rank.")
    dropout: Share = Field(0.0, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear"] | Annotated[list[ModuleName], Field(max_length=2000)] = Field(
        "all-linear", description="Modules that get an adapter: all-linear, or a list of module names."
    )


class PolicySettings(RecipePart):
    model: Reference = Field(description="The policy: a registered model's id, or for `varstudio train` a folder or hub name.")
    revision: Line | None = Field(None, max_length=120, description="Hub revision (branch, tag or commit).")
    adaptation: Literal["full", "lora"] = Field("full", description="Train all weights, or a LoRA adapter.")
    lora: LoraSettings = LoraSettings()
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number type of weights and activations.")
    saved_dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base", description="Number type of the saved model; base: the base model's own, or dtype where that is narrower."
    )
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4: the frozen weights in 4 bits under a LoRA adapter (QLoRA, with bitsandbytes)."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile: pays on a GPU and in long runs.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory, slower.")


class NoiseSettings(RecipePart):
    """A label-noise study: what the cached scores would be worth if labels or rewards were worse than they are."""

    label_flip_share: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = Field(
        0.0, description="Share of the preference pairs whose chosen and rejected are swapped."
    )
    reward_std: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        0.0, description="Gaussian noise on every reward, in standard deviations of the rewards."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Chooses the pairs that are swapped, and the noise.")


class ScoringSettings(RecipePart):
    """How log π_ref and the rewards are computed; changes seconds, not results."""

    backend: Literal["auto", "shared", "flex", "naive"] = Field(
        "auto",
        description="shared: each prompt is encoded once. flex: FlexAttention, for GPUs. naive: every pair in full. "
        "auto: the fastest that gave the right numbers when it was checked.",
    )
    early_stopping: bool = Field(
        True,
        description="Drop pairs as soon as their share of Z(x) is certain to be below e^−25. Works for summed log-probabilities.",
    )
    smallest_lambda: Positive | None = Field(
        None, description="Smallest λ that the scores shall serve, as a sweep sets it; empty: the recipe's own λ."
    )


class TokenSettings(RecipePart):
    max_prompt: int = Field(
        512, ge=1, le=1_000_000, description="Longest prompt, in tokens; longer ones lose old turns, then their start."
    )
    max_response: int = Field(512, ge=1, le=1_000_000, description="Longest response, in tokens; longer ones lose their end.")
    overlong: Literal["truncate", "drop"] = Field("truncate", description="What happens to an example over these lengths.")
    prompt_format: Literal["auto", "chat", "plain"] = Field(
        "auto", description="auto: the tokenizer's chat template if it has one, otherwise plain Human/Assistant turns."
    )
    template_date: date | None = Field(
        None, description="What chat templates that write the date take for today; the day of the launch, when not given."
    )


class EvaluationSettings(RecipePart):
    share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.05, description="Share of the examples held out of training."
    )
    split: SplitRule = Field(
        "conversation",
        description="What is held out together. conversation: prompts with the same first turn, and those that hold another's "
        "answer. prompt: only equal prompts, so that parts of a conversation are learned that others are judged by.",
    )
    every: int | None = Field(None, ge=1, le=10_000_000, description="Steps between evaluations; empty: about five in a run.")
    test_share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.5, description="Share of the held-out examples that are the test set: read once, at the end, for the final figures."
    )
    num_prompts: int = Field(32, ge=0, le=10_000, description="Validation prompts that are answered at each evaluation.")
    num_test_prompts: int = Field(128, ge=0, le=10_000, description="Test prompts that are answered once, at the end.")
    num_samples_shown: int = Field(8, ge=0, le=200, description="How many of them are kept as side-by-side samples.")
    max_new_tokens: int = Field(128, ge=1, le=32_768, description="Longest answer to a held-out prompt, in tokens.")
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(1.0, description="0: greedy decoding.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="Nucleus sampling: only the likeliest tokens that together have this probability; 1: all of them."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Chooses which examples are held out, and which of them are the test set.")
    recite: int = Field(
        0,
        ge=0,
        le=200,
        description="Prompts of the training data that the trained policy answers for a look at what it knows by heart, token by "
        "token the likeliest; nothing is judged by them.",
    )
    prompt_seed: int | None = Field(
        None, ge=0, lt=2**63, description="Chooses the held-out prompts that are answered; empty: evaluation.seed does."
    )
    draw_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Starts the sampling of the answers, of policy and reference alike; empty: evaluation.seed does.",
    )

    def seed_for(self, use: Literal["prompts", "draws"]) -> int:
        """Return the seed that chooses the prompts, or the one that starts the draws."""
        own = self.prompt_seed if use == "prompts" else self.draw_seed
        return self.seed if own is None else own


class Recipe(RecipePart):
    """A whole run. Errors name the field's dotted path, as the form, REST and the YAML file spell it."""

    name: Line = Field("", max_length=120, description="A name for people; empty: made from data set and policy.")
    method: Method = Field(
        Method.VAR,
        description="var: reward-weighted fine-tuning. sft: plain fine-tuning. dpo, ipo, simpo, orpo: losses on preference "
        "pairs. kto: a loss on single labelled responses. raft, rloo, grpo: fresh responses of the policy, "
        "compared with one another. reward_model: a Bradley-Terry reward model from the preference pairs.",
    )
    dataset: Reference = Field(description="The data set's id, or for `varstudio train` a file.")
    max_examples: int | None = Field(None, ge=2, le=2**31, description="Use only the first examples; empty: all.")
    policy: PolicySettings
    reward: RewardSettings = RewardSettings()
    weights: WeightSettings
    draws: DrawsSettings = DrawsSettings()
    noise: NoiseSettings = NoiseSettings()
    scoring: ScoringSettings = ScoringSettings()
    online: OnlineSettings = OnlineSettings()
    dpo: DpoSettings = DpoSettings()
    ipo: IpoSettings = IpoSettings()
    simpo: SimpoSettings = SimpoSettings()
    orpo: OrpoSettings = OrpoSettings()
    kto: KtoSettings = KtoSettings()
    group: GroupSettings = GroupSettings()
    tokens: TokenSettings = TokenSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    keep: KeepSettings = KeepSettings()

    @model_validator(mode="before")
    @classmethod
    def baselines_need_no_lambda(cls, data: Any) -> Any:
        """The other methods don't weigh by rewards: of the weights, only `responses` and `loss_norm` count for them."""
        if not isinstance(data, dict) or data.get("method", Method.VAR) == Method.VAR:
            return data
        weights = data.get("weights") or {}
        if isinstance(weights, dict) and weights.get("lambda") is None and weights.get("target_ess") is None:
            plain = {"preset": Preset.REWARD_WEIGHTED, "lambda": 1.0}
            return {**data, "weights": {**plain, **{key: value for key, value in weights.items() if value is not None}}}
        return data

    @model_validator(mode="before")
    @classmethod
    def rate_fits_the_method(cls, data: Any) -> Any:
        """A recipe that names no learning rate takes the one proposed for its method and adaptation."""
        if not isinstance(data, dict):
            return data
        training, policy = data.get("training", {}), data.get("policy", {})
        if not isinstance(training, dict) or not isinstance(policy, dict) or "learning_rate" in training:
            return data
        adaptation = policy.get("adaptation", "full")
        proposed = propose_rate(data.get("method", Method.VAR), adaptation) if isinstance(adaptation, str) else None
        return data if proposed is None else {**data, "training": {**training, "learning_rate": proposed}}

    @model_validator(mode="before")
    @classmethod
    def groups_are_fresh(cls, data: Any) -> Any:
        """RAFT, RLOO and GRPO have no other responses than fresh ones: before each step, unless it is said."""
        if not isinstance(data, dict) or data.get("method") not in ON_GROUPS:
            return data
        online = data.get("online") or {}
        if not isinstance(online, dict) or online.get("every") is not None:
            return data
        return {**data, "online": {**online, "every": 1}}

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

    @model_validator(mode="after")
    def groups_have_one_model(self) -> Self:
        if self.reward.second is None or self.method not in ON_GROUPS:
            return self
        raise fault(
            "reward.second",
            f"{self.method} scores no data by which several reward models could be put on one scale: leave it empty, or take "
            "method var, online where responses shall be fresh.",
        )

    @model_validator(mode="after")
    def prompts_are_compared_alone(self) -> Self:
        if not self.reward.per_prompt or self.method is not Method.VAR or self.weights.cross_reward == "reuse":
            return self
        raise fault(
            "reward.per_prompt",
            "In deviations of its own prompt a reward can't be asked about another prompt's response: set weights.cross_reward "
            "to reuse, or take the preset within_prompt or reward_weighted.",
        )

    @model_validator(mode="after")
    def parts_fit_the_method(self) -> Self:
        if self.policy.quantization != "none" and self.policy.adaptation != "lora":
            raise fault("policy.quantization", "Weights of 4 bits can't be trained themselves: set policy.adaptation to lora.")
        if self.method is Method.REWARD_MODEL and self.policy.adaptation != "full":
            raise fault("policy.adaptation", "A reward model is trained with all its weights: set policy.adaptation to full.")
        if self.training.sharding == "full" and (self.method is Method.REWARD_MODEL or self.policy.quantization != "none"):
            what = "A reward model is" if self.method is Method.REWARD_MODEL else "Weights of 4 bits are"
            raise fault("training.sharding", f"{what} held whole by every device: set training.sharding to none.")
        if self.method in ON_GROUPS and self.reward.source != "model":
            text = f"{self.method} learns from fresh responses, which have no rating and no label: choose a reward model."
            raise fault("reward.source", text)
        if self.online.every is not None and self.method not in (Method.VAR, *ON_GROUPS):
            raise fault("online.every", f"{self.method} learns from the data's responses, not from fresh ones: leave it empty.")
        if self.online.every is not None and self.reward.source != "model":
            raise fault("online.every", "Fresh responses have no rating and no label: choose a reward model, or leave it empty.")
        return self

    @model_validator(mode="after")
    def draws_fit(self) -> Self:
        is_online = self.online.every is not None
        if problem := find_draws_fault(self.weights, self.method, self.reward.source, is_online=is_online):
            raise fault(*problem)
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the field names users write (`lambda`)."""
        return self.model_dump(mode="json", by_alias=True)


def revive_recipe(data: Mapping[str, Any]) -> Recipe:
    """Return a recipe as it was stored: what was no setting yet then is as it was done then, so that an old run goes on alike."""
    evaluation = {"split": "prompt", "test_share": 0.0, **data.get("evaluation", {})}
    reward = {"dtype": data.get("policy", {}).get("dtype", "float32"), **data.get("reward", {})}
    return Recipe.model_validate({**data, "evaluation": evaluation, "reward": reward})


def parse_recipe(data: Any) -> Recipe:
    """Return a recipe from plain data (JSON, YAML, a form); raises RecipeInvalid with every field at fault."""
    recipe = parse(Recipe, data, RecipeInvalid)
    refuse_tiny(recipe.weights.lambda_, recipe.scoring.smallest_lambda)
    idle = find_idle_settings(recipe)
    if unused := find_idle_keeping(recipe, recipe.training.steps):
        idle.append(unused)
    if idle:
        problems = [{"field": field, "message": message} for field, message in idle]
        raise RecipeInvalid(summary(problems), problems=problems)
    return recipe


def find_idle_settings(recipe: Recipe) -> list[tuple[str, str]]:
    """Return field and sentence of each setting that can't do what it says, whatever the data.

    No validators of the class: runs that were made before these were refused must stay readable.
    """
    found = [
        ("noise.label_flip_share", find_idle_flips(recipe)),
        ("online.temperature", find_temperature_fault(recipe)),
        find_idle_draws(recipe.weights, recipe.method),
        find_idle_plans(recipe.weights, recipe.method),
        find_idle_care(recipe.reward, recipe.method),
    ]
    return [one for one in found if one is not None and one[1]]


def find_temperature_fault(recipe: Recipe) -> str:
    """Return why fresh responses can't be drawn at the recipe's temperature, in a sentence; empty when they can."""
    if recipe.online.every is not None and recipe.online.temperature < 1:
        return (
            f"At a temperature of {recipe.online.temperature:g} the policy is trained towards its own likeliest responses and "
            "collapses onto them, as no weight can make up for those that are not drawn. Take 1 or more."
        )
    if recipe.method in (Method.RLOO, Method.GRPO) and recipe.online.temperature != 1:
        return f"{recipe.method} compares the policy with itself as it drew, token by token: draw at a temperature of 1."
    return ""


def find_idle_keeping(recipe: Recipe, num_steps: int | None) -> tuple[str, str] | None:
    """Return the field and the sentence of a rule of `keep` that can never do anything; `num_steps` None: not known yet."""
    settings = recipe.evaluation
    return find_idle_rule(
        recipe.keep, Evaluations(recipe.method, settings.share, settings.num_prompts, settings.every, num_steps)
    )


def find_idle_flips(recipe: Recipe) -> str:
    """Return why this recipe's swapped labels would change nothing, in a sentence; empty when they do or none are swapped."""
    if recipe.method is not Method.VAR or recipe.noise.label_flip_share == 0 or recipe.weights.responses == "chosen":
        return ""
    return describe_idle_flips(recipe.reward.source, "noise.reward_std")


def describe_idle_flips(source: str, instead: str) -> str:
    """Return the sentence for labels that neither are the reward nor choose the responses; empty for rewards from the
    preference.
    """
    if source == "preference":
        return ""
    return (
        f"Swapped labels change nothing here, as the rewards come from a {source}: "
        f"use {instead}, or take the rewards from the preference."
    )
