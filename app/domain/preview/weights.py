"""A preview: the weights that a grid of λ × preset × batch size would give, from cached scores, without training."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.domain.events import FindingRaised, Number
from app.domain.scoring import EnsembleCheck, RewardCheck
from app.domain.weighting import DEFAULT_PRESET, MOST_DRAWS, Positive, Preset

MOST_CELLS = 400
WANTED_ERROR = 0.1  # nats of log Z(x): a tenth of a weight


class PreviewRequest(BaseModel):
    """What to preview. Empty `batch_sizes`: the scored one. `overrides` replace single choices of every preset."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    presets: Annotated[list[Preset], Field(min_length=1, max_length=len(Preset))] = [DEFAULT_PRESET]
    lambdas: Annotated[list[Positive], Field(min_length=1, max_length=40, alias="lambda")] = [0.03, 0.1, 0.3, 1.0, 3.0]
    batch_sizes: Annotated[list[Annotated[int, Field(ge=1, le=65_536)]], Field(max_length=10)] = []
    target_ess: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    overrides: dict[str, str | bool] = {}
    label_flip_share: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    reward_std: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    noise_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    length_control: bool = False  # of the rewards, as in a recipe
    per_prompt: bool = False

    @field_validator("presets", "lambdas", "batch_sizes", mode="after")
    @classmethod
    def each_once(cls, values: list[Any]) -> list[Any]:
        return list(dict.fromkeys(values))

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    def digest(self) -> str:
        """Equal requests have equal digests."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


class PreviewResponse(BaseModel):
    """One of the heaviest or lightest responses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    example_id: int = Field(description="Its example in the data set.")
    response: int = Field(description="Its number within the example; −1, −2, … are draws of the reference.")
    preference: int | None = Field(description="1 chosen, −1 rejected, null without a label.")
    num_tokens: int = Field(description="Its length.")
    reward: Number = Field(description="As it is weighed, after noise and treatment.")
    weight: float = Field(description="w(x, y).")
    prompt: str = Field("", description="The beginning of its prompt.")
    content: str = Field("", description="The beginning of its text.")


class PreviewCell(BaseModel):
    """One λ × preset × batch size: means over all batches of the metrics `weight/…` and `reward/…` of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    preset: Preset = Field(description="Its choices, with the overrides that were asked for.")
    lambda_: float = Field(alias="lambda", description="The temperature λ.")
    batch_size: int = Field(description="Prompts per batch.")
    metrics: dict[str, Number] = Field(description="Means over all batches, by the keys of the catalogue, weight/… and reward/….")
    prompt_ess_share: Number = Field(
        None, description="(ΣW)²/(P ΣW²) over the data set's P prompts, W being the mean weight of a prompt's responses."
    )
    partner_share: Number = Field(
        None,
        description="How much of a weight's variance is chance of which prompts meet in a batch; null: not known.",
    )
    plans: int = Field(
        1, description="A run's weights are means over so many batch plans; the weights here are its first plan's."
    )
    partition_error: Number = Field(
        None, description="Standard error of log Z(x) from draws of the reference, root mean square over the prompts, in nats."
    )
    draws_needed: int | None = Field(
        None,
        description=f"Draws of each prompt for an error of {WANTED_ERROR:g} nats; where these are more than {MOST_DRAWS}, the "
        "most that can be made, a larger λ needs fewer.",
    )
    histogram: list[int] = Field(
        description="Of all weights: how many lie in each bin, two per decade from 1e-8 to 1e2, and one below and above."
    )
    findings: list[FindingRaised] = Field(description="What is raised of these weights.")
    heaviest: list[PreviewResponse] = Field(description="The ten heaviest responses.")
    lightest: list[PreviewResponse] = Field(description="The ten lightest.")

    @property
    def partner_share_left(self) -> float | None:
        """The share of chance in the means over all plans, whose part of the variance falls with their number."""
        if self.partner_share is None:
            return None
        left = self.partner_share / self.plans
        return left / (1 - self.partner_share + left) if left else 0.0

    @property
    def draws_told(self) -> str:
        """How the draws that are needed stand to those that can be made, to follow their number."""
        return tell_most_draws(self.draws_needed)


def tell_most_draws(draws_needed: int | None) -> str:
    """Return what to do where more draws are needed than can be made, to follow their number; empty where they can."""
    return f", and {MOST_DRAWS} are the most: take a larger λ" if (draws_needed or 0) > MOST_DRAWS else ""


class Suggestion(BaseModel):
    """The λ whose mean effective sample size is the wanted share of the batch; None with the reason when there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    preset: Preset = Field(description="Of this preset.")
    batch_size: int = Field(description="Of this batch size.")
    target_ess: float = Field(description="The wanted effective sample size, as a share of the batch.")
    lambda_: float | None = Field(alias="lambda", description="The λ, or null with the reason.")
    reason: str = Field("", description="Why there is no such λ.")
    fallback: float | None = Field(None, description="The λ that a run takes instead when weights.fallback is reward_std.")


class PreviewResult(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    cells: list[PreviewCell] = Field(description="One for each λ × preset × batch size.")
    suggestions: list[Suggestion] = Field(description="A λ for each preset × batch size.")
    check: RewardCheck = Field(description="What the rewards know of the labels, after noise and treatment.")
    findings: list[FindingRaised] = Field(
        description="About the data as a whole: flat_rewards, inverted_rewards, truncated_pairs, foreign_data and others."
    )
    num_batches: int = Field(description="Batches that were weighed at the scored size.")
    num_responses: int = Field(description="Responses in them.")
    seconds: float = Field(description="That computing it took.")


class DrawnScores(BaseModel):
    """Where data and draws of the reference lie together: folders below scorings_dir."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_key: str
    logprob_key: str
    reward_key: str


class PreviewJob(BaseModel):
    """What the worker's previewing process is asked, one JSON line each; it answers {"result": …} or {"error": {…}}."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scorings_dir: str
    index_key: str
    logprob_key: str
    reward_key: str | None
    reward_source: str
    batch_size: int
    dataset_path: str
    drawn: DrawnScores | None = None  # None: the scoring has no draws
    ensemble: EnsembleCheck | None = None  # how far the reward models agree
    request: dict[str, Any]
