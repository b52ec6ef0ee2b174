"""Stage score: rewards and reference log-probabilities of the whole batch plan, from the cache or from the models.

One model at a time: the reward model is gone before the policy is loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import RecipeInvalid
from app.domain.events import ScoringKept
from app.domain.recipe import Method, Recipe
from app.domain.run import RunKind
from app.domain.scoring import DrawsFacts, RewardCheck, ScorePart, ScoringFacts
from app.domain.training.methods import WITH_REFERENCE
from app.system.numbers import percent
from worker.models.adapter import LanguageModel
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.scoring.cache import CROSS, OWN, Layout
from worker.stages.scoring.cached import CachedScores, find_or_score, gather_own, lay_out
from worker.stages.scoring.ensemble import RewardModels, check_ensemble
from worker.stages.scoring.index import keep_index, read_index
from worker.stages.scoring.pairs import (
    mark_pairs,
    needs_cross_logprobs,
    needs_cross_rewards,
    read_rewards,
    require_finite,
)
from worker.stages.scoring.passes import Passes
from worker.stages.scoring.plans import BatchPlan, count_others, lay_other, rearrange
from worker.stages.scoring.reward_check import check_index
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.scoring.stopping import find_stopping_lambda, score_with_stopping
from worker.var.ensemble import EnsembleScale

Draw = Callable[[BatchPlan, ReferenceSource, EnsembleScale | None], tuple[BatchPlan, DrawsFacts]]

NONE = ""  # this kind of score is not needed at all


@dataclass(frozen=True)
class Needs:
    """Which pairs a run needs of each kind of score: cross, own, or none ("")."""

    logprobs: str
    rewards: str


@dataclass
class Scores:
    """All scores of a run: matrices [B, M] of `batches`, NaN where nothing was asked. With Z(x) from draws these have the draws
    among their responses.

    `facts` is what the run tells of them (None when the run needs no scores); `policy` is the untrained policy when the pass
    had to load it, for whoever goes on with it; `others` are the plans that weights are averaged over beside the run's own;
    `scale` is that of several reward models.
    """

    batches: Sequence[Sequence[Encoded]]
    logprobs: Sequence[Tensor]
    rewards: Sequence[Tensor]
    facts: ScoringFacts | None = None
    policy: LanguageModel | None = None
    others: Sequence[BatchPlan] = ()
    scale: EnsembleScale | None = None

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


def score_all(attempt: AttemptContext, ground: Ground, draw: Draw | None = None) -> Scores:
    """Return the whole stage: scores that were made before are found, the others are made, and the run tells what it has.

    `draw` adds the draws of the reference; needed where the weights take Z(x) from them.
    """
    recipe = attempt.recipe
    needs, lambda_ = find_needs(recipe, attempt.spec.kind), find_stopping_lambda(recipe, attempt.spec.kind)
    num_others = count_others(recipe, attempt.spec.kind)
    needs_all = CROSS in (needs.logprobs, needs.rewards)
    asks_model = recipe.reward.source == "model" and needs.rewards != NONE
    asks_survivors = lambda_ is not None and asks_model and needs_cross_rewards(recipe.weights)
    num_passes = asks_model * (1 + len(recipe.reward.further)) + (needs.logprobs != NONE) + asks_survivors
    passes = Passes(attempt, num_passes * (1 + num_others * needs_all))
    scored = score_plan(passes, ground, needs, lambda_)
    if needs.logprobs == NONE:
        return Scores(ground.batches, scored.plan.logprobs, scored.plan.rewards)
    others, reference, keys = [], scored.reference, set[str]()
    for number in range(1, num_others + 1):
        other = lay_other(ground, recipe, number)
        if not needs_all:
            others.append(rearrange(scored.plan, other.batches))
            continue
        made = score_plan(passes, other, needs, lambda_, reference, scored.scale)
        reference = made.reference
        others.append(made.plan)
        keys |= made.keys | made.member_keys
    assert reference is not None
    plan, drawn = scored.plan, None
    if recipe.method is Method.VAR and recipe.weights.partition_scope == "draws":
        assert draw is not None
        plan, drawn = draw(plan, reference, scored.scale)
        others = [rearrange(plan, other.batches) for other in others]
        keys |= drawn.keys
    facts = tell(attempt, ground, scored, sorted((keys | scored.member_keys) - scored.keys), drawn)
    return Scores(plan.batches, plan.logprobs, plan.rewards, facts, reference.loaded, others, scored.scale)


@dataclass(frozen=True)
class ScoredPlan:
    """A plan's scores, what is told of both kinds, and the reference. `members`: what each of several reward models says."""

    plan: BatchPlan
    logprob: ScorePart | None
    reward: ScorePart | None
    reference: ReferenceSource | None
    members: Sequence[CachedScores] = ()
    scale: EnsembleScale | None = None

    @property
    def keys(self) -> set[str]:
        return {part.key for part in (self.logprob, self.reward) if part is not None}

    @property
    def member_keys(self) -> set[str]:
        return {member.told.key for member in self.members if member.told is not None}


def score_plan(
    passes: Passes, ground: Ground, needs: Needs, lambda_: float | None,
    before: ReferenceSource | None = None, scale: EnsembleScale | None = None,
) -> ScoredPlan:  # fmt: skip
    """Return the scores of one batch plan. `before`: the reference of another plan, whose model goes on where it may stay;
    `scale`: that of several reward models, where another plan has given it.
    """
    attempt, layout = passes.attempt, lay_out(ground.batches)
    asks_model = attempt.recipe.reward.source == "model" and needs.rewards != NONE
    models = RewardModels(attempt, ground, scale) if asks_model else None
    loaded = before.loaded if before is not None and models is None else None
    if before is not None:
        before.release()
    members = get_rewards(passes, ground, layout, OWN if lambda_ is not None else needs.rewards, models)
    rewards = models.combine(layout, members, needs.rewards) if models is not None else members[0]
    if needs.logprobs == NONE:
        return ScoredPlan(BatchPlan(ground.batches, _nothing(layout), rewards.matrices), None, rewards.told, None)
    if lambda_ is not None:
        source = models.members[0] if models is not None else None
        logprobs, rewards, reference = score_with_stopping(passes, ground, layout, rewards, source, lambda_)
    else:
        reference = ReferenceSource(attempt, ground)
        reference.loaded = loaded
        logprobs = get_logprobs(passes, ground, layout, needs.logprobs, reference)
    plan = BatchPlan(ground.batches, logprobs.matrices, rewards.matrices)
    if models is None or not models.is_ensemble:
        return ScoredPlan(plan, logprobs.told, rewards.told, reference)
    return ScoredPlan(plan, logprobs.told, rewards.told, reference, members, models.scale)


def get_rewards(passes: Passes, ground: Ground, layout: Layout, extent: str, models: RewardModels | None) -> list[CachedScores]:
    """r(x_i, y_j) of every batch by each reward model, from the cache or the model; or those of the data; NaN when they are not
    needed.
    """
    if extent == NONE:
        return [CachedScores(_nothing(layout))]
    if models is None:
        return [CachedScores([read_rewards(passes.attempt.recipe, batch) for batch in ground.batches])]
    return [ask_model(passes, ground, layout, extent, one, models.name(number)) for number, one in enumerate(models.members)]


def ask_model(passes: Passes, ground: Ground, layout: Layout, extent: str, source: RewardSource, what: str) -> CachedScores:
    """Return the rewards of one model, which is gone from memory then."""
    cross = extent == CROSS

    def score(k: int) -> tuple[Tensor, int]:
        batch = ground.batches[k]
        reward_BM = source.score(batch, mark_pairs(batch, cross=cross))
        reward_BM = require_finite(reward_BM, batch, cross=cross, what="The reward model")
        return reward_BM, int(reward_BM.isfinite().sum())

    part = find_or_score(passes, source.want(extent), layout, score, what)
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


def tell(
    attempt: AttemptContext,
    ground: Ground,
    scored: ScoredPlan,
    more_keys: Sequence[str],
    drawn: DrawsFacts | None,
) -> ScoringFacts:
    """Keep the index, check the rewards, and emit the run's `scoring` event."""
    assert scored.logprob is not None  # only rewards can stand in the data
    folder, layout = Path(attempt.spec.scorings_dir), lay_out(ground.batches)
    key = keep_index(folder, ground.batches, attempt.recipe.reward.source).key
    index, check = read_index(folder, key), None
    if scored.members:
        own = [gather_own(layout, member.matrices) for member in scored.members]
        check = check_ensemble(index, own, attempt.recipe.reward.caution)
    facts = ScoringFacts(
        index_key=key,
        batch_size=attempt.recipe.training.batch_size,
        num_batches=len(ground.batches),
        num_examples=len(ground.prepared.train),
        num_responses=sum(len(own_M) for own_M in layout.own),
        logprob=scored.logprob,
        reward=scored.reward,
        check=check_index(index, gather_own(layout, scored.plan.rewards)).model_copy(update={"ensemble": check}),
        draws=drawn,
        more_keys=tuple(more_keys),
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
        "Use another reward or swap chosen and rejected. To launch anyway, set reward.accept_inverted to true.",
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
