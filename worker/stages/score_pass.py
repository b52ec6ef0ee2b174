"""Stage score: rewards and reference log-probabilities of the whole batch plan, from the cache or from the models.

One model at a time: the reward model is gone before the policy is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import InvalidInput, RecipeInvalid
from app.domain.events import ScoringKept
from app.domain.recipe import Method, Recipe
from app.domain.run import RunKind, Stage
from app.domain.scoring import RewardCheck, ScorePart, ScoringFacts
from worker.models.adapter import LanguageModel
from worker.models.load import hash_folder, hash_tokenizer, load_policy, resolve_folder
from worker.models.reward import RewardModel
from worker.stages.artifacts import lock
from worker.stages.attempt import Attempt
from worker.stages.check import check_index
from worker.stages.evaluate import release_memory
from worker.stages.ground import Batches, Ground
from worker.stages.index import keep_index, read_index
from worker.stages.misses import explain_miss
from worker.stages.score import (
    describe_plan,
    hash_texts,
    hash_tokens,
    needs_cross_logprobs,
    needs_cross_rewards,
    own_prompts,
    read_rewards,
    require_finite,
    score_logprobs,
    score_rewards,
)
from worker.stages.scorings import CROSS, OWN, FlatScores, Layout, Wanted, find_scoring, score_in_groups

NONE = ""  # this kind of score is not needed at all


@dataclass(frozen=True)
class Needs:
    """Which pairs a run needs of each kind of score: cross, own, or none ("")."""

    logprobs: str
    rewards: str


@dataclass
class Scores:
    """All scores of a run: matrices [B, M] by batch, NaN where nothing was asked.

    `facts` is what the run tells of them (None when the run needs no scores); `policy` is the untrained policy when the pass
    had to load it, for whoever goes on with it.
    """

    logprobs: list[Tensor]
    rewards: list[Tensor]
    facts: ScoringFacts | None = None
    policy: LanguageModel | None = None


@dataclass(frozen=True)
class Part:
    """One kind of score: the matrices, and what is told of them."""

    matrices: list[Tensor]
    told: ScorePart


def find_needs(recipe: Recipe, kind: RunKind) -> Needs:
    """A scoring is made for every later use, so it asks for all pairs; a run asks for what its method reads."""
    model = recipe.reward.source == "model"
    if kind is RunKind.SCORING:
        return Needs(CROSS, CROSS if model else OWN)
    if recipe.method is Method.DPO:
        return Needs(OWN, NONE if model else OWN)
    if recipe.method is not Method.VAR:
        return Needs(NONE, NONE if model else OWN)
    return Needs(
        CROSS if needs_cross_logprobs(recipe.weights) else OWN,
        CROSS if needs_cross_rewards(recipe.weights) else OWN,
    )


def score_all(attempt: Attempt, ground: Ground) -> Scores:
    """The whole stage: scores that were made before are found, the others are made, and the run tells what it has."""
    needs = find_needs(attempt.recipe, attempt.spec.kind)
    layout = Layout([own_prompts(batch) for batch in ground.batches], [len(batch) for batch in ground.batches])
    missing = [torch.full((num, len(own_M)), torch.nan) for num, own_M in zip(layout.num_prompts, layout.own, strict=True)]
    rewards = get_rewards(attempt, ground, layout, needs.rewards)
    scores = Scores(missing, missing if rewards is None else rewards.matrices)
    if needs.logprobs != NONE:
        logprobs, scores.policy = get_logprobs(attempt, ground, layout, needs.logprobs)
        scores.logprobs = logprobs.matrices
        scores.facts = tell(attempt, ground, scores, logprobs.told, rewards.told if rewards else None)
    return scores


def get_rewards(attempt: Attempt, ground: Ground, layout: Layout, extent: str) -> "Part | _Data | None":
    """r(x_i, y_j) of every batch, from the cache, the reward model or the data; None when they are not needed."""
    recipe, spec = attempt.recipe, attempt.spec
    if extent == NONE:
        return None
    if recipe.reward.source != "model":
        return _Data([read_rewards(recipe, batch) for batch in ground.batches])
    if spec.reward is None:
        raise InvalidInput.at("reward.model", "The recipe names a reward model, but the attempt's spec does not say where it is.")
    folder = resolve_folder(spec.reward, Path(spec.hub_dir))

    @cache
    def load() -> RewardModel:
        return RewardModel(folder, dtype=recipe.policy.dtype, device=spec.device)

    def score(k: int) -> tuple[Tensor, int]:
        batch = ground.batches[k]
        reward_BM = score_rewards(load(), batch, cross=extent == CROSS, check=attempt.stop.check)
        reward_BM = require_finite(reward_BM, batch, cross=extent == CROSS, what="The reward model")
        return reward_BM, int(reward_BM.isfinite().sum())

    facts = {"weights": hash_folder(folder), "tokenizer": hash_tokenizer(folder), "dtype": recipe.policy.dtype}
    identity = {**facts, "texts": hash_texts(ground.batches).hexdigest()}
    wanted = Wanted("reward", identity, {**describe_plan(ground.batches, recipe), **facts}, extent)
    part = find_or_score(attempt, wanted, layout, score, "rewards")
    load.cache_clear()
    release_memory()
    return part


@dataclass(frozen=True)
class _Data:
    """Rewards that stand in the data: no artifact is kept of them, the index has them."""

    matrices: list[Tensor]
    told: ScorePart | None = None


def get_logprobs(attempt: Attempt, ground: Ground, layout: Layout, extent: str) -> tuple[Part, LanguageModel | None]:
    """log π_ref(y_j|x_i) of every batch, and the policy when it had to be loaded for them."""
    policy: list[LanguageModel] = []

    def score(k: int) -> tuple[Tensor, int]:
        if not policy:
            policy.append(load_reference(attempt, ground))
        batch = ground.batches[k]
        logprob_BM = score_logprobs(policy[0], batch, cross=extent == CROSS, check=attempt.stop.check)
        logprob_BM = require_finite(logprob_BM, batch, cross=extent == CROSS, what="The policy")
        return logprob_BM, int(logprob_BM.isfinite().sum())

    recipe = attempt.recipe
    model = {
        "weights": hash_folder(ground.policy_folder),
        "dtype": recipe.policy.dtype,
        "quantization": recipe.policy.quantization,
    }
    identity = {**model, "tokens": hash_tokens(ground.batches).hexdigest()}
    tokens = {
        "tokenizer": hash_tokenizer(ground.policy_folder),
        "format": "chat template" if ground.prompt_format.chat else "plain turns",
        "max_prompt": str(ground.lengths.max_prompt),
        "max_response": str(ground.lengths.max_response),
    }
    wanted = Wanted("logprob", identity, {**describe_plan(ground.batches, recipe), **tokens, **model}, extent)
    part = find_or_score(attempt, wanted, layout, score, "log-probabilities", backend="shared")
    return part, policy[0] if policy else None


def load_reference(attempt: Attempt, ground: Ground) -> LanguageModel:
    """The untrained policy, which is the reference."""
    return load_policy(ground.policy_folder, dtype=attempt.recipe.policy.dtype, device=attempt.spec.device).language_model


def find_or_score(
    attempt: Attempt,
    wanted: Wanted,
    layout: Layout,
    score: Callable[[int], tuple[Tensor, int]],
    what: str,
    *,
    backend: str = "",
) -> Part:
    """What is wanted from the cache, or scored and kept; while another process scores the same, wait for it."""
    folder, num_batches = Path(attempt.spec.scorings_dir), len(layout.own)
    found = find_scoring(folder, wanted)
    if found is not None:
        return _reuse(attempt, layout, found, what)

    def waiting() -> None:
        attempt.log(f"Another process is making the same {what}: waiting for it.")

    with lock(folder, wanted.key, check=attempt.stop.check, waiting=waiting):
        found = find_scoring(folder, wanted)
        if found is not None:
            return _reuse(attempt, layout, found, what)
        reason = explain_miss(folder, wanted)
        attempt.log(f"The {what} of {num_batches} batches are scored now. {reason}")
        progress = attempt.start_stage(Stage.SCORE, total=num_batches, unit=f"batches of {what}")
        made = score_in_groups(folder, wanted, layout, score, progress, backend=backend)
    return Part(layout.unflatten(0, num_batches, made.scores, made.manifest.extent), describe_part(made, reason))


def _reuse(attempt: Attempt, layout: Layout, found: FlatScores, what: str) -> Part:
    num_batches = len(layout.own)
    attempt.log(f"The {what} of all {num_batches} batches were scored before and are reused.")
    return Part(layout.unflatten(0, num_batches, found.scores, found.manifest.extent), describe_part(found, ""))


def describe_part(scores: FlatScores, miss_reason: str) -> ScorePart:
    """What is told of an artifact; `miss_reason` is empty for a hit."""
    manifest, hit = scores.manifest, not miss_reason
    return ScorePart(
        key=manifest.key,
        hit=hit,
        miss_reason=miss_reason,
        cross=manifest.extent != OWN,
        backend="" if hit else manifest.backend,
        num_pairs=manifest.num_pairs,
        num_scored=manifest.num_scored,
        smallest_lambda=manifest.smallest_lambda,
        size_bytes=manifest.size_bytes,
        seconds=0.0 if hit else manifest.seconds,
    )


def tell(attempt: Attempt, ground: Ground, scores: Scores, logprob: ScorePart, reward: ScorePart | None) -> ScoringFacts:
    """Keep the index, check the rewards, and emit the run's `scoring` event."""
    folder = Path(attempt.spec.scorings_dir)
    kept = keep_index(folder, ground.batches, attempt.recipe.reward.source)
    facts = ScoringFacts(
        index_key=kept.key,
        batch_size=attempt.recipe.training.batch_size,
        num_batches=len(ground.batches),
        num_examples=len(ground.prepared.train),
        num_responses=sum(matrix_BM.shape[1] for matrix_BM in scores.rewards),
        logprob=logprob,
        reward=reward,
        check=check_index(read_index(folder, kept.key), own_scores(ground.batches, scores.rewards)),
    )
    attempt.emit(ScoringKept(scoring=facts))
    return facts


def own_scores(batches: Batches, matrices: list[Tensor]) -> Tensor:
    """Of matrices [B, M], the entries of own pairs, end to end."""
    pairs = zip(batches, matrices, strict=True)
    return torch.cat([matrix_BM.gather(0, own_prompts(batch)[None])[0] for batch, matrix_BM in pairs])


def refuse_inverted(recipe: Recipe, check: RewardCheck) -> None:
    """Raise RecipeInvalid when a run would learn from rewards that contradict the labels, unless the recipe accepts it."""
    if recipe.method is not Method.VAR or recipe.reward.accept_inverted or not check.inverted:
        return
    raise RecipeInvalid.at(
        "reward.accept_inverted",
        f"The rewards contradict the preference labels: the chosen response has the higher reward in only {check.accuracy:.0%} "
        f"of {check.num_pairs - check.num_ties} pairs (95 % interval {check.low:.0%} to {check.high:.0%}). Use another reward, "
        "swap chosen and rejected, or set reward.accept_inverted to launch anyway.",
    )


def summarize(facts: ScoringFacts | None) -> dict[str, float | None]:
    """The last word of a run that only scores, in metrics of the catalogue."""
    if facts is None:
        return {}
    check = facts.check
    summary: dict[str, float | None] = {"reward/mean": check.mean, "reward/std": check.std}
    if check.chosen_mean is not None and check.rejected_mean is not None:
        summary |= {"reward/chosen": check.chosen_mean, "reward/rejected": check.rejected_mean}
        summary["reward/gap"] = check.chosen_mean - check.rejected_mean
    return summary
