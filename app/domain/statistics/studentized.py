"""The mean of skewed observations, such as divergences: never negative, with a few that are much larger than the others.

An interval that is as long to the left as to the right ends too soon on the right there: over KLs of 48 prompts the percentile
bootstrap held the truth in 93.9 % of 3000 simulated evaluations, this one in 94.6 % (64 prompts: 94.0 and 95.1).
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from app.domain.statistics.estimate import LEVEL, RESAMPLES, Estimate, estimate_mean

FEWEST_STUDENTIZED = 16  # with fewer the resamples' own deviations are too uncertain to divide by


def estimate_skewed_mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean with its bootstrap-t interval (Efron and Tibshirani 1993, ch. 12.5); equal seeds give equal intervals.

    mean − t* · s/√n, with t* the quantiles of (mean* − mean) / (s*/√n) over resamples. Raises ValueError as `estimate_mean`,
    which also serves where there are few values, or where all are equal.
    """
    if len(values) < FEWEST_STUDENTIZED or min(values) == max(values) or not all(map(math.isfinite, values)):
        return estimate_mean(values, seed=seed)
    import numpy as np

    value_N, num = np.asarray(values, dtype=float), len(values)
    mean, error, chance = fmean(values), stdev(values) / math.sqrt(num), np.random.default_rng(seed)
    at_once = max(1, 500_000 // num)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        drawn_RN = value_N[chance.integers(0, num, (min(at_once, RESAMPLES - start), num))]
        error_R = drawn_RN.std(axis=1, ddof=1) / math.sqrt(num)
        parts.append((drawn_RN.mean(axis=1) - mean)[error_R > 0] / error_R[error_R > 0])
    left, right = np.quantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = (mean - float(t) * error for t in (right, left))
    return Estimate(mean, min(low, mean), max(high, mean), error)
