"""How strong each of several models is, by who wins on which prompt: Bradley and Terry's model, ties counted half to each side.

P(i beats j) = σ(θᵢ − θⱼ), with Σ θ = 0 (R. A. Bradley and M. E. Terry 1952, Biometrika 39, 324–345). A prompt is drawn with
all of its contests, so that the intervals know that models meet on the same prompts.

    find_strengths(3, {(0, 1): {7: 0.4, 8: -0.1}, (0, 2): {7: 1.0}})    # by pair and prompt: how much more the first got
"""

from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from app.domain.statistics.estimate import LEVEL, Estimate
from app.domain.statistics.resampling import sum_resamples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    Array = Any

Gains = Mapping[tuple[int, int], Mapping[int, float]]  # by pair of models (i < j) and by prompt: what i got more than j

PRIOR_TIES = 1.0  # one tie of each pair that has met: keeps strengths finite where one model wins always
NEWTON_STEPS = 30


class Strength(NamedTuple):
    """A model's θ against the mean of all, its chance against an average model, and whether it may be the strongest."""

    value: Estimate
    chance: Estimate
    may_be_best: bool


def find_strengths(num_models: int, gains: Gains, *, seed: int = 0) -> list[Strength]:
    """Return the strength of each model with its bootstrap interval over the prompts.

    A model may be the best where it isn't told apart from the strongest: by the bootstrap's deviation of their difference, at
    5 % shared by all pairs (Bonferroni). Raises ValueError for fewer than two models, and where some never met the others,
    directly or through third ones.
    """
    import numpy as np

    if num_models < 2:
        raise ValueError("Strengths are of two models or more.")
    won_PMM = _count_wins(num_models, gains)
    total_MM = won_PMM.sum(0)
    met_MM = (total_MM + total_MM.T) > 0
    if not _are_linked(met_MM):
        raise ValueError("Some of the models never met the others.")
    prior_MM = PRIOR_TIES / 2 * met_MM
    theta_M = _fit((total_MM + prior_MM)[None])[0]
    theta_RM = _fit(sum_resamples(won_PMM, seed) + prior_MM)
    low_M, high_M = np.quantile(theta_RM, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    error_M, best = theta_RM.std(0), int(theta_M.argmax())
    limit = NormalDist().inv_cdf(1 - (1 - LEVEL) / (num_models * (num_models - 1)))
    behind_M, spread_M = theta_M[best] - theta_M, (theta_RM[:, [best]] - theta_RM).std(0)
    found = []
    for model in range(num_models):
        low, high = min(low_M[model], theta_M[model]), max(high_M[model], theta_M[model])
        value = Estimate(float(theta_M[model]), float(low), float(high), float(error_M[model]))
        chance = Estimate(*(float(1 / (1 + np.exp(-theta))) for theta in (theta_M[model], low, high)))
        found.append(Strength(value, chance, bool(behind_M[model] <= limit * spread_M[model])))
    return found


def _count_wins(num_models: int, gains: Gains) -> Array:
    import numpy as np

    prompts = {prompt: place for place, prompt in enumerate(sorted({prompt for found in gains.values() for prompt in found}))}
    won_PMM = np.zeros((len(prompts), num_models, num_models))
    for (first, second), found in gains.items():
        for prompt, gain in found.items():
            share = 1.0 if gain > 0 else 0.0 if gain < 0 else 0.5
            won_PMM[prompts[prompt], first, second] += share
            won_PMM[prompts[prompt], second, first] += 1 - share
    return won_PMM


def _are_linked(met_MM: Array) -> bool:
    reached, wave = {0}, [0]
    while wave:
        wave = [other for model in wave for other in map(int, met_MM[model].nonzero()[0]) if other not in reached]
        reached.update(wave)
    return len(reached) == len(met_MM)


def _fit(won_RMM: Array) -> Array:
    """Return θ of each of R tables of wins, by Newton's method with bounded steps; the sum of each row is 0."""
    import numpy as np

    num_models = won_RMM.shape[1]
    met_RMM = won_RMM + won_RMM.transpose(0, 2, 1)
    theta_RM = np.zeros(won_RMM.shape[:2])
    level = np.ones((num_models, num_models)) / num_models  # the direction that no contest tells
    for _ in range(NEWTON_STEPS):
        p_RMM = 1 / (1 + np.exp(theta_RM[:, None, :] - theta_RM[:, :, None]))
        slope_RM = (won_RMM - met_RMM * p_RMM).sum(2)
        spread_RMM = met_RMM * p_RMM * (1 - p_RMM)
        curve_RMM = level - spread_RMM
        curve_RMM[:, range(num_models), range(num_models)] += spread_RMM.sum(2)
        step_RM = np.linalg.solve(curve_RMM, slope_RM[..., None])[..., 0]
        largest = np.abs(step_RM).max()
        theta_RM = theta_RM + step_RM / np.maximum(1.0, np.abs(step_RM).max(1, keepdims=True))
        if largest < 1e-9:
            break
    return np.asarray(theta_RM - theta_RM.mean(1, keepdims=True))
