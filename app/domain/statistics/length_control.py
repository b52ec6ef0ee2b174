"""The win rate that is left when two models' answers are equally long: judges that like length are not to decide by it.

After Dubois et al. 2024, "Length-Controlled AlpacaEval" (arXiv 2404.04475): logit P(win) = θ + φ · tanh(Δlength / its deviation),
fitted over the prompts, and read at Δlength = 0. Their terms of the prompts' difficulty need many models and are left out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.domain.statistics.estimate import FEWEST_RESAMPLED, LEVEL, RESAMPLES, Estimate
from app.domain.statistics.paired import subtract, win_rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    Array = Any

# Normal priors on θ and φ, so weak that they only keep them finite where all prompts are won (Gelman et al. 2008 scale them so).
PRECISION = (1 / 10.0**2, 1 / 2.5**2)
PSEUDO_PROMPTS = 4  # two wins and two losses of equal length, for the interval only: Agresti and Coull 1998
NEWTON_STEPS = 25


def length_controlled_win_rate(
    first: Sequence[float], second: Sequence[float], first_lengths: Sequence[float], second_lengths: Sequence[float], *,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """Return the share of prompts that the first would win with answers as long as the second's; ties count half.

    The interval is a bootstrap over prompts, each resample fitted anew. Where all pairs are equally long it is `win_rate`.
    Raises ValueError without pairs, or with unequal lists.
    """
    plain = win_rate(first, second)
    longer, differences = subtract(first_lengths, second_lengths), subtract(first, second)
    if len(longer) != len(differences):
        raise ValueError("There are not as many lengths as rewards.")
    if len(differences) < FEWEST_RESAMPLED or not any(longer):
        return plain
    import numpy as np

    won_N = (np.sign(differences) + 1) / 2
    length_N = np.tanh(np.asarray(longer, dtype=float) / (np.std(longer) or np.max(np.abs(longer))))
    share = float(_win_rates(won_N[None], length_N[None])[0])
    shares = _resampled(won_N, length_N, seed)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(share, min(share, float(low)), max(share, float(high)), float(np.std(shares)))


def _resampled(won_N: Array, length_N: Array, seed: int) -> Array:
    import numpy as np

    won_N = np.concatenate([won_N, np.tile([0.0, 1.0], PSEUDO_PROMPTS // 2)])
    length_N = np.concatenate([length_N, np.zeros(PSEUDO_PROMPTS)])
    chance, num = np.random.default_rng(seed), len(won_N)
    at_once = max(1, 500_000 // num)
    parts = []
    for start in range(0, RESAMPLES, at_once):
        drawn_RN = chance.integers(0, num, (min(at_once, RESAMPLES - start), num))
        parts.append(_win_rates(won_N[drawn_RN], length_N[drawn_RN]))
    return np.concatenate(parts)


def _win_rates(won_RN: Array, length_RN: Array) -> Array:
    """σ(θ) of each of R fits, by Newton's method; steps are bounded, so that no fit runs away."""
    import numpy as np

    theta_R, phi_R = np.zeros(len(won_RN)), np.zeros(len(won_RN))
    for _ in range(NEWTON_STEPS):
        p_RN = 1 / (1 + np.exp(-(theta_R[:, None] + phi_R[:, None] * length_RN)))
        rest_RN, spread_RN = won_RN - p_RN, p_RN * (1 - p_RN)
        slope_theta = rest_RN.sum(1) - PRECISION[0] * theta_R
        slope_phi = (rest_RN * length_RN).sum(1) - PRECISION[1] * phi_R
        a, b = spread_RN.sum(1) + PRECISION[0], (spread_RN * length_RN).sum(1)
        c = (spread_RN * length_RN**2).sum(1) + PRECISION[1]
        step_theta = (c * slope_theta - b * slope_phi) / (a * c - b * b)
        step_phi = (a * slope_phi - b * slope_theta) / (a * c - b * b)
        scale = np.maximum(1.0, np.maximum(np.abs(step_theta), np.abs(step_phi)) / 2)
        theta_R, phi_R = theta_R + step_theta / scale, phi_R + step_phi / scale
        if max(np.abs(step_theta).max(), np.abs(step_phi).max()) < 1e-10:
            break
    return np.asarray(1 / (1 + np.exp(-theta_R)))
