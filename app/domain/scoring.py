"""A scoring: log π_ref(y|x) and r(x, y) of a data set's fixed batches, computed once and reused by runs, sweeps and previews.

The web knows a scoring by its fingerprint, made from the settings that scores depend on. The runner knows its two artifacts by
their keys, made from the content itself: tokens, texts, weights. Settings that differ may well share an artifact.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.domain.recipe import Recipe
from app.system.numbers import percent

ONCE_LONGEST_ANSWER = 128
FOREIGN_NATS, FOREIGN_ERRORS = 0.3, 3.0  # a token, and in standard errors: data that the reference would not have written
LEAST_CORRELATION = 0.5  # of reward models: below it more than half of what each says is its own
FLAT_STD = 1e-3  # a smaller standard deviation of the rewards tells nothing


class Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScorePart(Fact):
    """One artifact of a scoring: all log-probabilities, or all rewards, of the batch plan."""

    key: str = Field(description="Folder below scorings_dir.")
    hit: bool = Field(description="Found in the cache.")
    miss_reason: str = Field("", description="What differs from the nearest scoring there is, a sentence; empty when found.")
    cross: bool = Field(description="Other prompts' responses are scored too.")
    backend: str = Field("", description="How it was computed: shared, flex or naive; empty for rewards and for scores found.")
    num_pairs: int = Field(description="Prompt-response pairs that were wanted.")
    num_scored: int = Field(description="Of them, scored in full; the others were dropped with a certificate.")
    smallest_lambda: float | None = Field(
        None, description="A pass that stopped early serves this λ and larger ones, preset `paper` only."
    )
    size_bytes: int = Field(description="Of its files.")
    seconds: float = Field(0.0, description="That making it took; 0 when found.")


class EnsembleCheck(Fact):
    """How far several reward models agree, over own pairs (x_i, y of x_i); kept scores, before any noise or treatment."""

    caution: float = Field(description="k of mean − k · deviation, as the recipe has it.")
    correlation: float | None = Field(
        description="Mean over pairs of models; null where one of them gives every response the same reward."
    )
    same_order: float | None = Field(description="Share of the labelled pairs that all models rank alike.")
    accuracies: list[float | None] = Field(description="Of each model alone, as the accuracy of the reward check.")


class RewardCheck(Fact):
    """What the rewards know of the preference labels, and how they are spread. All over own pairs (x_i, y of x_i)."""

    num_responses: int = Field(description="Responses with a reward.")
    num_pairs: int = Field(description="Pairs of a chosen and a rejected response.")
    num_ties: int = Field(description="Pairs whose two rewards are equal.")
    accuracy: float | None = Field(description="Share of the untied pairs whose chosen response has the higher reward.")
    low: float = Field(description="Lower end of its 95 % interval (Wilson).")
    high: float = Field(description="Upper end of its 95 % interval.")
    length_accuracy: float | None = Field(description="The same of the rule that the longer response is better: the bar to beat.")
    length_low: float = Field(description="Lower end of its 95 % interval.")
    length_high: float = Field(description="Upper end of its 95 % interval.")
    length_slope: float | None = Field(
        None,
        description="Reward per token, of the straight line through all own pairs; null in scorings from before it was told.",
    )
    length_explains: float | None = Field(
        None, description="R² of that line: the share of the rewards' variance that length explains."
    )
    controlled_accuracy: float | None = Field(
        None, description="The accuracy of the rewards without what length explains, as reward.length_control takes it out."
    )
    mean: float = Field(description="Mean of all rewards.")
    std: float = Field(description="Their standard deviation.")
    chosen_mean: float | None = Field(description="Mean reward of the chosen responses.")
    rejected_mean: float | None = Field(description="Mean reward of the rejected responses.")
    edges: list[float] = Field(description="Edges of the histogram, in equal steps from the smallest to the largest reward.")
    counts: list[int] = Field(description="Responses in each bin of the histogram.")
    inverted: bool = Field(description="The rewards contradict the labels (finding inverted_rewards).")
    flat: bool = Field(description="The rewards hardly tell responses apart (finding flat_rewards).")
    ensemble: EnsembleCheck | None = Field(None, description="How far several reward models agree; null for one, or none.")


class DrawsFacts(Fact):
    """Draws of the reference that a scoring holds beside its pairs, and how the data's responses compare with them.

    Folders below scorings_dir: index and own scores of data and draws together; `made_keys` are the answers and their rewards.
    """

    num_prompts: int = Field(description="Prompts that the reference has answered.")
    num_draws: int = Field(description="K: answers to each of them.")
    num_finished: int = Field(description="That ended by themselves; the others reached the longest draw.")
    num_tokens: int = Field(description="Of all draws.")
    hit: bool = Field(description="Found in the cache.")
    index_key: str = Field(description="Folder below scorings_dir: which response, of data and draws, stands where.")
    logprob_key: str = Field(description="Folder of their log π_ref.")
    reward_key: str = Field(description="Folder of their rewards.")
    made_keys: tuple[str, ...] = Field(description="Folders of the draws' texts and of their rewards.")
    data_logprob: float = Field(description="log π_ref per token of the data's responses, in nats, mean over the prompts.")
    draw_logprob: float = Field(description="The same of the draws.")
    gap: float = Field(
        description="Data less draws, mean over the prompts: far from 0, somebody else wrote the data (finding foreign_data)."
    )
    gap_error: float | None = Field(description="Its standard error over the prompts; null for one prompt.")

    @property
    def keys(self) -> set[str]:
        return {self.index_key, self.logprob_key, self.reward_key, *self.made_keys}


class ScoringFacts(Fact):
    """What a finished scoring holds."""

    index_key: str = Field(description="Folder below scorings_dir with index.safetensors: which response stands where.")
    batch_size: int = Field(description="Prompts per scored batch.")
    num_batches: int = Field(description="Batches of the plan.")
    num_examples: int = Field(description="Training examples.")
    num_responses: int = Field(description="Their responses.")
    logprob: ScorePart = Field(description="The log-probabilities log π_ref.")
    reward: ScorePart | None = Field(description="The rewards; null where they stand in the data.")
    check: RewardCheck = Field(description="What the rewards know of the labels.")
    draws: DrawsFacts | None = Field(None, description="Draws of the reference; null where none were made.")
    more_keys: tuple[str, ...] = Field((), description="Further folders below scorings_dir: of other batch plans, of draws.")


def has_all_pairs(facts: ScoringFacts) -> bool:
    """Return whether every preset and λ can be had from it: all prompts with all responses, none dropped on the way."""
    parts = [facts.logprob, *([facts.reward] if facts.reward else [])]
    return all(part.cross and part.smallest_lambda is None for part in parts)


def describe_inverted(check: RewardCheck) -> str:
    """Return the evidence of `inverted_rewards` as a sentence with the measured numbers."""
    return (
        f"The chosen response has the higher reward in only {percent(check.accuracy or 0.0)} "
        f"of {check.num_pairs - check.num_ties} pairs (95 % interval {percent(check.low)} to {percent(check.high)}), "
        "so the rewards contradict the preference labels."
    )


def describe_foreign(data: float, draws: float, gap: float, error: float | None) -> str | None:
    """Return the evidence of `foreign_data`: log π_ref per token of the data's responses and of the reference's own draws, the
    mean difference over the prompts, and its standard error; None where they are near.
    """
    if abs(gap) <= FOREIGN_NATS or error is None or abs(gap) <= FOREIGN_ERRORS * error:
        return None
    return (
        f"The reference gives the data's responses {data:.2f} nats a token and its own draws {draws:.2f}: on the same prompts "
        f"{abs(gap):.2f} ± {error:.2f} {'less' if gap < 0 else 'more'}. They were written by somebody else."
    )


def describe_disagreement(ensemble: EnsembleCheck | None) -> str | None:
    """Return the evidence of `reward_disagreement`; None for one reward model, or where several agree well enough."""
    if ensemble is None or (ensemble.correlation is not None and ensemble.correlation >= LEAST_CORRELATION):
        return None
    if ensemble.correlation is None:
        return "One of the reward models gives every response the same reward."
    order = "" if ensemble.same_order is None else f", and all rank only {percent(ensemble.same_order)} of the pairs alike"
    return f"The rewards of the {len(ensemble.accuracies)} models correlate by {ensemble.correlation:.2f} on average{order}."


def describe_flat(check: RewardCheck) -> str:
    """Return the evidence of `flat_rewards` as a sentence with the measured numbers."""
    if check.chosen_mean is None or check.rejected_mean is None or check.std < FLAT_STD:
        return f"The rewards' standard deviation is {check.std:.2g}: they hardly differ."
    gap = check.chosen_mean - check.rejected_mean
    return f"Chosen minus rejected is {gap:.3g} on average over {check.num_pairs} pairs, too little to be told from 0."


def scoring_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the parts of a recipe that its scores depend on, as plain data.

    Of its evaluation only what decides which examples are held out, as the others are scored; not how answers are drawn.
    """
    whole = recipe.to_dict()
    # What there was no choice of at first is told only where it is another, so that scorings of that time are found.
    rule = {} if recipe.evaluation.split == "prompt" else {"split": recipe.evaluation.split}
    own = recipe.reward.source == "model" and recipe.reward.dtype != recipe.policy.dtype
    dtype = {"dtype": recipe.reward.dtype} if own else {}
    further = {key: whole["reward"][key] for key in ("second", "third", "caution")} if recipe.reward.further else {}
    has_draws = recipe.method == "var" and recipe.weights.partition_scope == "draws"
    draws = {"draws": whole["draws"]} if has_draws else {}
    return draws | {
        "dataset": whole["dataset"],
        "max_examples": whole["max_examples"],
        "policy": {key: whole["policy"][key] for key in ("model", "revision", "dtype", "quantization")},
        "reward": {key: whole["reward"][key] for key in ("source", "model", "revision")} | dtype | further,
        "tokens": {key: value for key, value in whole["tokens"].items() if value is not None},
        "training": {key: whole["training"][key] for key in ("batch_size", "seed")},
        "evaluation": {key: whole["evaluation"][key] for key in ("share", "seed")} | rule,
    }


def fingerprint(settings: Mapping[str, Any], contents: Sequence[str]) -> str:
    """Return the identity of a scoring before it is made. `contents`: hashes of the data set and of the models' files.

    The longest answer was part of it once: its default stands there still, so that scorings of that time are found.
    """
    evaluation = {"max_new_tokens": ONCE_LONGEST_ANSWER, **settings.get("evaluation", {})}
    text = json.dumps([{**settings, "evaluation": evaluation}, list(contents)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
