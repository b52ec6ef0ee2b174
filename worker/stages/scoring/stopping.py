"""Certified early stopping: pairs whose share of Z(x) is certain to be nil are neither scored to the end nor asked a reward for.

The mathematics is worker.var.certificate's. What R is, and how certain that makes a dropped pair:
  - rewards of own pairs reused for cross pairs (rating, label, cross_reward reuse): every r is known beforehand, R is each
    response's own. Nothing is assumed.
  - a reward model asked about cross pairs: R is the largest own reward of the data set and one standard deviation on top. The
    surviving pairs are then asked, and where one of them exceeds R, R is raised above it and the pairs that this uncovers are
    scored and asked too, until none does. What stays an assumption is that no pair that was never asked exceeds R: own pairs
    are what a reward model was trained to praise, and a response to another prompt seldom beats the best of them by a deviation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.domain.errors import ModelInvalid
from app.domain.recipe import Method, Recipe
from app.domain.run import RunKind
from app.system.numbers import percent
from worker.stages.attempt import AttemptContext
from worker.stages.prepare import Ground
from worker.stages.scoring.cache import EARLY, Layout, read_dropped
from worker.stages.scoring.cached import CachedScores, find_or_score, gather_own
from worker.stages.scoring.pairs import mark_pairs, needs_cross_rewards, require_finite
from worker.stages.scoring.passes import Passes
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.var.candidates import WeightChoices
from worker.var.certificate import bound_rewards, droppable, holds_for, logprob_floors


def find_stopping_lambda(recipe: Recipe, kind: RunKind) -> float | None:
    """Return the smallest λ that the scores shall serve, or None where pairs may not be dropped.

    Noise, treatments and further reward models change the rewards that a certificate rests on; a target for the effective sample
    size looks at every λ; and a scoring is made for every later use.
    """
    weights, noise = recipe.weights, recipe.noise
    choices = WeightChoices(weights.weight_form, weights.partition_scope, weights.logprob_norm)
    clean = noise.label_flip_share == 0 and noise.reward_std == 0
    clean = clean and not (recipe.reward.length_control or recipe.reward.per_prompt or recipe.reward.further)
    if kind is not RunKind.TRAINING or recipe.method is not Method.VAR or not recipe.scoring.early_stopping:
        return None
    if weights.lambda_ is None or recipe.online.every is not None or not clean or not holds_for(choices):
        return None
    return min(weights.lambda_, recipe.scoring.smallest_lambda or weights.lambda_)


def find_served_lambda(recipe: Recipe, kind: RunKind, logprobs: Sequence[Tensor]) -> float | None:
    """Return the smallest λ that these scores of a run serve for certain; None: every λ, as no pair was dropped."""
    is_stopped = any(bool((logprob_BM == -torch.inf).any()) for logprob_BM in logprobs)
    return find_stopping_lambda(recipe, kind) if is_stopped else None


@dataclass(frozen=True)
class Certificates:
    """What pairs are dropped by: own rewards r_M of each batch, λ in raw reward units, and R (None: each one's own)."""

    own_rewards: list[Tensor]
    lambda_: float
    bound: float | None

    @property
    def digest(self) -> str:
        digest = hashlib.sha256(f"{self.bound!r}".encode())
        for reward_M in self.own_rewards:
            digest.update(reward_M.numpy().tobytes())
        return digest.hexdigest()

    def floors(self, k: int, own_M: Tensor, raw_BM: Tensor) -> Tensor:
        """Batch k's log-probabilities below which a pair may be dropped: [B, M], −inf for own pairs, which `raw_BM` has."""
        reward_M, own_logprob_M = self.own_rewards[k], raw_BM.gather(0, own_M[None])[0]
        return logprob_floors(own_M, own_logprob_M, reward_M, self.lambda_, reward_M if self.bound is None else self.bound)


def score_with_stopping(
    passes: Passes, ground: Ground, layout: Layout, own: CachedScores, reward: RewardSource | None, lambda_: float
) -> tuple[CachedScores, CachedScores, ReferenceSource]:
    """Log-probabilities and rewards for λ and larger ones, given the rewards of own pairs; the reference, if still loaded.

    Dropped pairs have the log-probability −inf, and a reward of NaN where the reward model would have been asked.
    """
    attempt = passes.attempt
    settings, reference = attempt.recipe.weights, ReferenceSource(attempt, ground)
    own_reward_N = gather_own(layout, own.matrices)
    if settings.reward_norm == "zscore":
        lambda_ *= float(own_reward_N.double().std(correction=0)) or 1.0
    own_rewards = [part.contiguous() for part in own_reward_N.split([len(own_M) for own_M in layout.own])]
    if reward is None or not needs_cross_rewards(settings):
        logprobs = _score_logprobs(passes, ground, layout, reference, Certificates(own_rewards, lambda_, None), None)
        _tell_dropped(attempt, layout, logprobs)
        return _decode(logprobs), own, reference
    bound = bound_rewards(own_reward_N)
    raw: CachedScores | None = None
    rewards = own
    while True:
        reward.release()
        certificates = Certificates(own_rewards, lambda_, bound)
        raw = _score_logprobs(passes, ground, layout, reference, certificates, raw)
        reference.release()
        rewards = _ask_survivors(passes, ground, layout, reward, raw, rewards, certificates)
        largest = max(float(reward_BM.nan_to_num(-torch.inf).max()) for reward_BM in rewards.matrices)
        if largest <= bound:
            break
        attempt.log(
            f"A reward of {largest:.4g} is above the assumed bound of {bound:.4g}: the pairs that this uncovers are scored."
        )
        bound = largest + (bound - float(own_reward_N.max()))
    reward.release()
    _tell_dropped(attempt, layout, raw, rewards)
    return _decode(raw), rewards, reference


def _score_logprobs(
    passes: Passes,
    ground: Ground,
    layout: Layout,
    reference: ReferenceSource,
    certificates: Certificates,
    before: CachedScores | None,
) -> CachedScores:
    """Raw log-probabilities, a positive number for a dropped pair; those of a pass with a lower R are gone on with."""

    def score(k: int) -> tuple[Tensor, int]:
        batch, own_M = ground.batches[k], layout.own[k]
        if before is None:
            own_BM = mark_pairs(batch, cross=False)
            raw_BM, wanted_BM = reference.score(batch, own_BM), ~own_BM
            floor_BM = certificates.floors(k, own_M, raw_BM)
        else:  # a pair comes back when what was known of it when it was dropped would no longer do
            raw_BM = before.matrices[k]
            floor_BM = certificates.floors(k, own_M, raw_BM)
            wanted_BM = (raw_BM > 0) & ~droppable(-raw_BM, floor_BM)
        found_BM = reference.score_until_hopeless(batch, wanted_BM, floor_BM)
        found_BM = torch.where(droppable(found_BM, floor_BM), -found_BM, found_BM)
        raw_BM = require_finite(torch.where(wanted_BM, found_BM, raw_BM), batch, cross=True, what="The policy")
        return raw_BM, int((raw_BM <= 0).sum())

    wanted = reference.want(EARLY, certificates.lambda_, certificates.digest)
    part = find_or_score(passes, wanted, layout, score, "log-probabilities", lambda: reference.backend)
    dropped = []
    for k, raw_BM in enumerate(part.matrices):  # complete scores, or those of a smaller λ, still spare the reward model calls
        hopeless_BM = droppable(raw_BM, certificates.floors(k, layout.own[k], raw_BM)) & (raw_BM <= 0)
        dropped.append(torch.where(hopeless_BM, -raw_BM, raw_BM))
    return CachedScores(dropped, part.told)


def _ask_survivors(
    passes: Passes,
    ground: Ground,
    layout: Layout,
    reward: RewardSource,
    raw: CachedScores,
    before: CachedScores,
    certificates: Certificates,
) -> CachedScores:
    """Rewards of own pairs, which `before` has, and of the pairs that were not dropped; NaN for the others."""

    def score(k: int) -> tuple[Tensor, int]:
        needed_BM, known_BM = raw.matrices[k] <= 0, before.matrices[k]
        asked_BM = needed_BM & known_BM.isnan()
        reward_BM = torch.where(asked_BM, reward.score(ground.batches[k], asked_BM), known_BM)
        if not reward_BM[needed_BM].isfinite().all():
            raise ModelInvalid(
                "The reward model gives a number that is not finite for a pair of the data set. "
                "Its weights are damaged or overflow: try reward.dtype float32, or another model."
            )
        return reward_BM, int(reward_BM.isfinite().sum())

    wanted = reward.want(EARLY, certificates.lambda_, certificates.digest)
    return find_or_score(passes, wanted, layout, score, "rewards")


def _decode(raw: CachedScores) -> CachedScores:
    return CachedScores([read_dropped(raw_BM) for raw_BM in raw.matrices], raw.told)


def _tell_dropped(attempt: AttemptContext, layout: Layout, raw: CachedScores, rewards: CachedScores | None = None) -> None:
    num_pairs = layout.count_pairs(EARLY)
    num_dropped = sum(int((raw_BM > 0).sum()) for raw_BM in raw.matrices)
    text = f"Early stopping dropped {num_dropped} of {num_pairs} prompt-response pairs ({percent(num_dropped / num_pairs)})"
    if rewards is not None:
        num_asked = sum(int(reward_BM.isfinite().sum()) for reward_BM in rewards.matrices)
        text += f"; the reward model was asked about {num_asked} ({percent(num_asked / num_pairs)})"
    attempt.log(text + ".")
