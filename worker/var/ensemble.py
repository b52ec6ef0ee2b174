"""Several reward models as one: each on the first one's scale, then their mean less k of their deviations.

A Bradley-Terry reward knows no zero, so models are compared by what they say of the same own pairs. Shapes: E models; N own
pairs; rewards of one model may be of any shape.
    z_e = m_1 + s_1 (r_e − m_e)/s_e        m_e, s_e: mean and deviation of model e's rewards of the N own pairs
    r   = z̄ − k · SD(z_1 … z_E)            SD over E − 1: of seeds that differ by chance alone it is unbiased in its square
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor


@dataclass(frozen=True)
class EnsembleScale:
    """Mean and deviation of each model's rewards of the data's own pairs; `caution` is k."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    caution: float

    def combine(self, rewards: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean − k · SD of the models' rewards of the same pairs, and their SD, in the first one's unit; NaN stays NaN."""
        first, spread = self.means[0], self.deviations[0]
        scaled = [
            first + spread * (reward.double() - mean) / (deviation or 1.0)
            for reward, mean, deviation in zip(rewards, self.means, self.deviations, strict=True)
        ]
        z_E = torch.stack(scaled)
        deviation = z_E.std(dim=0)
        return (z_E.mean(dim=0) - self.caution * deviation).to(rewards[0].dtype), deviation.to(rewards[0].dtype)


def measure_scale(reward_EN: Sequence[Tensor], caution: float) -> EnsembleScale:
    """Return the models' scales by their rewards of all own pairs."""
    wide = [reward_N.double() for reward_N in reward_EN]
    return EnsembleScale(
        tuple(float(reward_N.mean()) for reward_N in wide),
        tuple(float(reward_N.std(correction=0)) for reward_N in wide),
        caution,
    )


def correlate(reward_EN: Sequence[Tensor]) -> float | None:
    """Return the mean correlation over pairs of models; None where one of them is constant.

    Of models that are a common signal and noise of their own it is the signal's share of a model's variance.
    """
    centred = [reward_N.double() - reward_N.double().mean() for reward_N in reward_EN]
    norms = [float(centred_N.norm()) for centred_N in centred]
    if min(norms) <= 1e-9 * max(1.0, *norms):
        return None
    found = [float(a @ b) / (m * n) for (a, m), (b, n) in combinations(zip(centred, norms, strict=True), 2)]
    return sum(found) / len(found)
