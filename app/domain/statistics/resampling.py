"""Resamples of observations, drawn as weights: how often each observation is in each of them."""

from typing import TYPE_CHECKING, Any

from app.domain.statistics.estimate import RESAMPLES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    Array = Any

AT_ONCE = 1_000_000  # numbers drawn in one piece


def sum_resamples(table: Array, seed: int) -> Array:
    """Return the sums of R resamples of a table's rows, [R, …]; equal seeds give equal ones."""
    import numpy as np

    num, chance = len(table), np.random.default_rng(seed)
    flat, parts, at_once = table.reshape(num, -1), [], max(1, AT_ONCE // num)
    for start in range(0, RESAMPLES, at_once):
        times_RN = chance.multinomial(num, np.full(num, 1 / num), min(at_once, RESAMPLES - start))
        parts.append(times_RN @ flat)
    return np.concatenate(parts).reshape(-1, *table.shape[1:])
