"""Stage score: rewards and reference log-probabilities of the whole batch plan, from the cache or from the models.

One model at a time: the reward model is gone before the policy is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import RecipeInvalid
from app.domain.events import ScoringKept
from app.domain.recipe import Method, Recipe
from app.domain.run import RunKind
from app.domain.scoring import RewardCheck, ScorePart, ScoringFacts
from app.domain.training.methods import WITH_REFERENCE
from app.system.numbers import percent
from worker.models.adapter import LanguageModel
from worker.stages.attempt import AttemptContext
from worker.stages.prepare import Ground
from worker.stages.scoring.cache import CROSS, OWN, Layout
from worker.stages.scoring.cached import CachedScores, find_or_score, gather_own, lay_out
from worker.stages.scoring.index import keep_index, read_index
from worker.stages.scoring.pairs import (
    mark_pairs,
    needs_cross_logprobs,
    needs_cross_rewards,
    read_rewards,
    require_finite,
)
from worker.stages.scoring.passes import Passes
from worker.stages.scoring.reward_check import check_index
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.scoring.stopping import find_stopping_lambda, score_with_stopping

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

    @property
    def seconds(self) -> float:
        """What making the scores has taken; 0 for those that were found."""
        parts = (self.facts.logprob, self.facts.reward) if self.facts else ()
        return sum(part.seconds for part in parts if part is not None and not part.hit)


def find_needs(recipe: Recipe, kind: RunKind) -> Needs:
    """Ask for all pairs where a scoring is made for every later use; a run asks for what its method reads."""
    model = recipe.reward.source == "model"
    if kind is RunKind.SCORING:
        return Needs(CROSS, CROSS if model else OWN)
    if recipe.method is Method.KTO:  # each prompt with another's response as well
        return Needs(CROSS, NONE if model else OWN)
    if recipe.method in WITH_REFERENCE:
        return Needs(OWN, NONE if model else OWN)
    if recipe.method is not Method.VAR:
        return Needs(NONE, NONE if model else OWN)
    if recipe.online.every is not None:  # the data's own responses give λ and the rewards' scale, no more
        return Needs(OWN, OWN)
    return Needs(
        CROSS if needs_cross_logprobs(recipe.weights) else OWN,
        CROSS if needs_cross_rewards(recipe.weights) else OWN,
    )


def score_all(attempt: AttemptContext, ground: Ground) -> Scores:
    """Return the whole stage: scores that were made before are found, the others are made, and the run tells what it has."""
    recipe, layout = attempt.recipe, lay_out(ground.batches)
    needs, lambda_ = find_needs(recipe, attempt.spec.kind), find_stopping_lambda(recipe, attempt.spec.kind)
    source = RewardSource(attempt, ground) if recipe.reward.source == "model" and needs.rewards != NONE else None
    asks_survivors = lambda_ is not None and source is not None and needs_cross_rewards(recipe.weights)
    passes = Passes(attempt, (source is not None) + (needs.logprobs != NONE) + asks_survivors)
    rewards = get_rewards(passes, ground, layout, OWN if lambda_ is not None else needs.rewards, source)
    if needs.logprobs == NONE:
        return Scores(_nothing(layout), rewards.matrices)
    if lambda_ is not None:
        logprobs, rewards, reference = score_with_stopping(passes, ground, layout, rewards, source, lambda_)
    else:
        reference = ReferenceSource(attempt, ground)
        logprobs = get_logprobs(passes, ground, layout, needs.logprobs, reference)
    assert logprobs.told is not None  # only rewards can stand in the data
    facts = tell(attempt, ground, layout, rewards, logprobs.told)
    return Scores(logprobs.matrices, rewards.matrices, facts, reference.loaded)


def get_rewards(passes: Passes, ground: Ground, layout: Layout, extent: str, source: RewardSource | None) -> CachedScores:
    """r(x_i, y_j) of every batch, from the cache, the reward model or the data; NaN when they are not needed."""
    if extent == NONE:
        return CachedScores(_nothing(layout))
    if source is None:
        return CachedScores([read_rewards(passes.attempt.recipe, batch) for batch in ground.batches])
    cross = extent == CROSS

    def score(k: int) -> tuple[Tensor, int]:
        batch = ground.batches[k]
        reward_BM = source.score(batch, mark_pairs(batch, cross=cross))
        reward_BM = require_finite(reward_BM, batch, cross=cross, what="The reward model")
        return reward_BM, int(reward_BM.isfinite().sum())

    part = find_or_score(passes, source.want(extent), layout, score, "rewards")
    source.release()
    return part


def get_logprobs(passes: Passes, ground: Ground, layout: Layout, extent: str, reference: ReferenceSource) -> CachedScores:
    """log π_ref(y_j|x_i) of every batch."""
    cross = extent == CROSS

    def score(k: int) -> tuple[Tensor, int]:
        batch = ground.batches[k]
        logprob_BM = reference.score(batch, mark_pairs(batch, cross=cross))
        logprob_BM = require_finite(logprob_BM, batch, cross=cross, what="The policy")
        return logprob_BM, int(logprob_BM.isfinite().sum())

    return find_or_score(passes, reference.want(extent), layout, score, "log-probabilities", lambda: reference.backend)


def _nothing(layout: Layout) -> list[Tensor]:
    return [torch.full((num, len(own_M)), torch.nan) for num, own_M in zip(layout.num_prompts, layout.own, strict=True)]


def tell(attempt: AttemptContext, ground: Ground, layout: Layout, rewards: CachedScores, logprob: ScorePart) -> ScoringFacts:
    """Keep the index, check the rewards, and emit the run's `scoring` event."""
    folder = Path(attempt.spec.scorings_dir)
    key = keep_index(folder, ground.batches, attempt.recipe.reward.source).key
    facts = ScoringFacts(
        index_key=key,
        batch_size=attempt.recipe.training.batch_size,
        num_batches=len(ground.batches),
        num_examples=len(ground.prepared.train),
        num_responses=sum(len(own_M) for own_M in layout.own),
        logprob=logprob,
        reward=rewards.told,
        check=check_index(read_index(folder, key), gather_own(layout, rewards.matrices)),
    )
    attempt.emit(ScoringKept(scoring=facts))
    return facts


def refuse_inverted(recipe: Recipe, check: RewardCheck) -> None:
    """Raise RecipeInvalid when a run would learn from rewards that contradict the labels, unless the recipe accepts it."""
    if recipe.method is not Method.VAR or recipe.reward.accept_inverted or not check.inverted:
        return
    raise RecipeInvalid.at(
        "reward.accept_inverted",
        "The rewards contradict the preference labels: the chosen response has the higher reward in only "
        f"{percent(check.accuracy or 0.0)} of {check.num_pairs - check.num_ties} pairs "
        f"(95 % interval {percent(check.low)} to {percent(check.high)}). "
        "Use another reward, swap chosen and rejected, or set reward.accept_inverted to launch anyway.",
    )


def summarize(facts: ScoringFacts | None) -> dict[str, float | None]:
    """Return the last word of a run that only scores, in metrics of the catalogue."""
    if facts is None:
        return {}
    check = facts.check
    summary: dict[str, float | None] = {"reward/mean": check.mean, "reward/std": check.std}
    if check.chosen_mean is not None and check.rejected_mean is not None:
        summary |= {"reward/chosen": check.chosen_mean, "reward/rejected": check.rejected_mean}
        summary["reward/gap"] = check.chosen_mean - check.rejected_mean
    return summary
