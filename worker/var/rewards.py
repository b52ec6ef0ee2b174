"""Rewards before they are weighed: without what length explains, and within each prompt in its own deviations.

Shapes: N responses, each with its own prompt; T_j tokens of response j.
    length    r'_j = r_j − b (T_j − T̄),    b = Σ (T − T̄)(r − r̄) / Σ (T − T̄)²         (least squares over all own pairs)
    prompt    r'_j = (r_j − r̄_x) / s_x,     mean and deviation (over K) of the responses to the same prompt; 0 where s_x = 0
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LengthFit:
    """The straight line of rewards over lengths: reward per token, the length that stays as it is, and the share explained."""

    slope: float = 0.0
    mean_tokens: float = 0.0
    r_squared: float = 0.0

    def take_out(self, reward: Tensor, num_tokens: Tensor) -> Tensor:
        """Return the rewards as they would be at the mean length; shapes broadcast, NaN stays."""
        if not self.slope:
            return reward
        return (reward.double() - self.slope * (num_tokens.double() - self.mean_tokens)).to(reward.dtype)


FLAT = LengthFit()  # which explains nothing


def fit_length(reward_N: Tensor, num_tokens_N: Tensor) -> LengthFit:
    """Return the line through finite rewards; flat where lengths or rewards don't differ."""
    known_N = reward_N.isfinite()
    reward_N, num_tokens_N = reward_N[known_N].double(), num_tokens_N[known_N].double()
    if not len(reward_N):
        return LengthFit()
    apart_N, from_mean_N = num_tokens_N - num_tokens_N.mean(), reward_N - reward_N.mean()
    spread, variance = float(apart_N.square().sum()), float(from_mean_N.square().sum())
    if spread == 0 or variance == 0:
        return LengthFit(0.0, float(num_tokens_N.mean()), 0.0)
    shared = float((apart_N * from_mean_N).sum())
    return LengthFit(shared / spread, float(num_tokens_N.mean()), shared * shared / (spread * variance))


def standardise_within(reward_N: Tensor, prompt_N: Tensor) -> Tensor:
    """Return each reward in deviations from the mean of its prompt's; equal prompt_N mark the responses to one prompt."""
    _, place_N = prompt_N.unique(return_inverse=True)
    count_P = place_N.bincount().double()
    wide_N = reward_N.double()

    def mean(value_N: Tensor) -> Tensor:
        return (torch.zeros_like(count_P).index_add(0, place_N, value_N) / count_P)[place_N]

    centred_N = wide_N - mean(wide_N)
    deviation_N = mean(centred_N.square()).sqrt()
    tiny_N = deviation_N <= 1e-9 * (1 + mean(wide_N.abs()))  # a rounding error is no spread
    return torch.where(tiny_N, 0.0, centred_N / torch.where(tiny_N, 1.0, deviation_N)).to(reward_N.dtype)
