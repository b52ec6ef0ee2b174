"""Two models on the same prompts: gain, win rate, whether they are told apart, and how many prompts that would need.

Pairs are compared, never two means: what makes one prompt harder than another falls out. Lists run over the same prompts.

    compare_paired(policy_rewards, reference_rewards).gain    # Estimate(value=0.31, low=0.12, high=0.5, standard_error=0.1)
"""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from app.domain.statistics.estimate import LEVEL, RESAMPLES, Estimate, Z, estimate_mean

FEWEST_TOLD_APART = 6  # with fewer pairs no exchange of signs is rarer than 5 %: 2 · 2⁻⁵ is more
POWER = 0.8


class PairedComparison(NamedTuple):
    """The first model against the second. `p_value`: how often equal models would differ as much."""

    num_prompts: int
    gain: Estimate
    win_rate: Estimate
    p_value: float
    told_apart: bool
    needed_prompts: int | None  # to tell this gain from none; None where there is no gain, or too few prompts to say


def compare_paired(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> PairedComparison:
    """Return how much more reward the first gets on the same prompts. Raises ValueError as `paired_gain`.

    They are told apart where the gain's interval excludes 0 and a permutation test agrees, which errs in 5 % of equal pairs at
    most however few or skewed they are; the interval alone does in 6 % of skewed ones at 24 prompts.
    """
    differences = subtract(first, second)
    gain, p_value = estimate_mean(differences, seed=seed), exchange_test(differences, seed=seed)
    told_apart = p_value <= 1 - LEVEL and gain.excludes_zero
    return PairedComparison(len(first), gain, win_rate(first, second), p_value, told_apart, needed_prompts(differences))


def exchange_test(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return how often the mean is as far from 0 when the two models of each prompt are exchanged at random (R. A. Fisher 1935).

    All exchanges are counted where they are few, else some are drawn and the observed one is counted with them.
    """
    import numpy as np

    num = len(differences)
    values_N, observed = np.asarray(differences, dtype=float), abs(math.fsum(differences)) * (1 - 1e-9)
    if 2**num <= RESAMPLES:
        signs_RN = 2.0 * (np.arange(2**num)[:, None] >> np.arange(num) & 1) - 1
        return float((np.abs(signs_RN @ values_N) >= observed).mean())
    chance, at_once, num_extreme = np.random.default_rng(seed), max(1, 2_000_000 // num), 0
    for start in range(0, RESAMPLES, at_once):
        signs_RN = 2.0 * chance.integers(0, 2, (min(at_once, RESAMPLES - start), num)) - 1
        num_extreme += int((np.abs(signs_RN @ values_N) >= observed).sum())
    return (num_extreme + 1) / (RESAMPLES + 1)


def paired_gain(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean difference with its paired bootstrap interval. Raises ValueError without pairs, or with unequal lists."""
    return estimate_mean(subtract(first, second), seed=seed)


def win_rate(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return the share of prompts that the first wins, ties counted half, with a score interval for paired shares.

    The rate is (1 + δ)/2 of δ = P(win) − P(loss); the interval is T. Tango's of δ (1998, Statistics in Medicine 17, 891–908),
    which keeps its level with ties and at the edges, where a bootstrap has no width: of 32 wins out of 32 it is 89 to 100 %.
    Without ties it is Wilson's. Raises ValueError without pairs, or with unequal lists.
    """
    differences = subtract(first, second)
    wins, losses, num = sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)
    if not num:
        raise ValueError("A win rate over no prompts is asked for.")
    share = (num + wins - losses) / (2 * num)
    error = math.sqrt(max(0.0, (wins + losses) / num - ((wins - losses) / num) ** 2) / num) / 2
    low, high = (_solve_tango(wins, losses, num, z) for z in (Z, -Z))
    return Estimate(share, min(share, (1 + low) / 2), max(share, (1 + high) / 2), error)


def needed_prompts(differences: Sequence[float], *, power: float = POWER) -> int | None:
    """Return how many prompts tell the observed mean difference from 0, at the level of 5 % with this power.

    n = ((z₁₋ₐ/₂ + z_power) s/d)² + z₁₋ₐ/₂²/2, the paired t-test's (W. C. Guenther 1981, The American Statistician 35,
    243–244). None with fewer than two differences, and where their mean is 0.
    """
    if len(differences) < 2 or not (mean := fmean(differences)):
        return None
    wanted = Z + NormalDist().inv_cdf(power)
    ratio = wanted * stdev(differences) / mean
    found = ratio * ratio + Z * Z / 2
    return max(FEWEST_TOLD_APART, math.ceil(found)) if math.isfinite(found) else None


def needed_for_width(differences: Sequence[float], half_width: float) -> int | None:
    """Return how many prompts give the win rate an interval that reaches so far to either side; None with fewer than two.

    n = (z s / (2 h))² of the signs, s no smaller than with two more wins and two more losses: at the edges none would be enough.
    """
    if len(differences) < 2:
        return None
    signs = [float((difference > 0) - (difference < 0)) for difference in differences]
    return math.ceil((Z * stdev([*signs, 1.0, -1.0, 1.0, -1.0]) / (2 * half_width)) ** 2)


def subtract(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return first − second, pair by pair. Raises ValueError with unequal lists."""
    return [one - other for one, other in zip(first, second, strict=True)]


def _solve_tango(wins: int, losses: int, num: int, target: float) -> float:
    """Return the δ whose score statistic is `target`, by bisection; the statistic falls as δ grows."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(middle, wins, losses, num) > target else (low, middle)
    return (low + high) / 2


def _score(delta: float, wins: int, losses: int, num: int) -> float:
    """(wins − losses − nδ) / √(n (2q + δ(1 − δ))), with q the most likely P(loss) under δ."""
    linear = (2 * num - wins + losses) * delta - wins - losses
    root = math.sqrt(max(0.0, linear**2 + 8 * num * losses * delta * (1 - delta)))
    spread = num * ((root - linear) / (2 * num) + delta * (1 - delta))
    distance = wins - losses - num * delta
    return distance / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, distance) if distance else 0.0
