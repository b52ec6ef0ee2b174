"""Whether one figure rises with another over the prompts: Spearman's ρ with its interval. A judge that likes length has ρ > 0."""

import math
from collections.abc import Sequence

from app.domain.statistics.estimate import Estimate, Z

FEWEST_ASSOCIATED = 4  # the interval divides by √(n − 3)


def spearman(first: Sequence[float], second: Sequence[float]) -> Estimate | None:
    """Return the rank correlation; None with few pairs, or where one of both is the same everywhere.

    The interval is Fisher's with the deviation √((1 + ρ²/2)/(n − 3)), which keeps its level for ranks (D. G. Bonett and
    T. A. Wright 2000, Psychometrika 65, 23–28). Raises ValueError with unequal lists.
    """
    if len(first) != len(second):
        raise ValueError("There are not as many of one figure as of the other.")
    if len(first) < FEWEST_ASSOCIATED or min(first) == max(first) or min(second) == max(second):
        return None
    import numpy as np
    from scipy.stats import rankdata

    found = float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
    value = max(-1.0, min(1.0, found))
    error = math.sqrt((1 + value * value / 2) / (len(first) - 3))
    centre = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    low, high = (math.tanh(centre + sign * Z * error) for sign in (-1, 1))
    return Estimate(value, min(value, low), max(value, high), error)
