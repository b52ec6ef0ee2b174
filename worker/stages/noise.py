"""A label-noise study: what the cached scores are worth when labels or rewards are worse than they are.

The noise is a function of its seed and of the ids it falls on, whatever stands beside them: preview and training, every order
and every batch size get the same. It is put on after the scores are read, so that the scores stay clean and shared.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from app.domain.recipe import NoiseSettings
from worker.stages.examples import Encoded

FLIPS, REWARDS = 1, 2  # streams of random numbers
GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's, as signed integers


def flip_labels(preference_N: Tensor, example_N: Tensor, share: float, seed: int) -> Tensor:
    """Preferences (1 chosen, −1 rejected, 0 neither) with both labels of about `share` of the examples swapped: [N].

    Every example is swapped with probability `share`, all its responses together; `example_N` are the examples' ids.
    """
    if share == 0:
        return preference_N
    return torch.where(draw_uniform(seed, FLIPS, example_N) < share, -preference_N, preference_N)


def perturb_rewards(reward: Tensor, prompt: Tensor, example: Tensor, response: Tensor, std: float, seed: int) -> Tensor:
    """Rewards plus Gaussian noise with the deviation `std`, in the reward's unit; NaN stays NaN, shape and dtype stay.

    Of r(x_i, y_j): `prompt` is the id of x_i's example, `example` the id of y_j's example and `response` its number there;
    int64, of shapes that broadcast to the reward's. Own pairs have prompt = example.
    """
    if std == 0:
        return reward
    radius = torch.sqrt(-2 * torch.log1p(-draw_uniform(seed, REWARDS, prompt, example, response, torch.zeros_like(response))))
    angle = 2 * math.pi * draw_uniform(seed, REWARDS, prompt, example, response, torch.ones_like(response))
    return (reward.double() + std * radius * torch.cos(angle)).to(reward.dtype)  # Box and Muller's normal numbers


def add_noise(
    batches: Sequence[Sequence[Encoded]], rewards: Sequence[Tensor], noise: NoiseSettings, source: str
) -> tuple[list[list[Encoded]], list[Tensor]]:
    """Training batches and their clean rewards r_BM with the recipe's noise on them; `source` is the recipe's reward.source.

    Where the label is the reward, the two flip together. `reward_std` counts in deviations of the clean rewards.
    """
    noisy = flip_batches(batches, noise)
    std = measure_noise(batches, rewards, noise) if noise.reward_std else 0.0
    perturbed = []
    for batch, after, reward_BM in zip(batches, noisy, rewards, strict=True):
        if source == "preference":
            labels = [[r.preference for example in some for r in example.responses] for some in (batch, after)]
            reward_BM = reward_BM * torch.tensor([1.0 if old == new else -1.0 for old, new in zip(*labels, strict=True)])
        prompt_B1 = torch.tensor([[example.example_id] for example in batch])
        example_M = torch.tensor([example.example_id for example in batch for _ in example.responses])
        response_M = torch.tensor([response.number for example in batch for response in example.responses])
        perturbed.append(perturb_rewards(reward_BM, prompt_B1, example_M, response_M, std, noise.seed))
    return noisy, perturbed


def measure_noise(batches: Sequence[Sequence[Encoded]], rewards: Sequence[Tensor], noise: NoiseSettings) -> float:
    """Return the deviation of the noise on every reward: `reward_std` times that of the clean rewards of own pairs."""
    own = [torch.tensor([i for i, example in enumerate(batch) for _ in example.responses]) for batch in batches]
    clean = torch.cat([reward_BM.gather(0, own_M[None])[0] for own_M, reward_BM in zip(own, rewards, strict=True)]).double()
    return noise.reward_std * float(clean.std(correction=0))


def flip_batches(batches: Sequence[Sequence[Encoded]], noise: NoiseSettings) -> list[list[Encoded]]:
    """Return the batches with their labels as the noise leaves them."""
    return [[flip_example(example, noise) for example in batch] for batch in batches]


def flip_example(example: Encoded, noise: NoiseSettings) -> Encoded:
    """Return the example with its labels as the noise leaves them."""
    before_K = torch.tensor([response.preference or 0 for response in example.responses])
    after_K = flip_labels(before_K, torch.full_like(before_K, example.example_id), noise.label_flip_share, noise.seed)
    if torch.equal(before_K, after_K):
        return example
    flipped = [
        response if response.preference is None else replace(response, preference=int(label))
        for response, label in zip(example.responses, after_K, strict=True)
    ]
    return replace(example, responses=tuple(flipped))


def draw_uniform(seed: int, stream: int, *ids: Tensor) -> Tensor:
    """Return a number in [0, 1) for each tuple of ids, float64: splitmix64 (Steele, Lea and Flood 2014) over seed, stream and
    ids.
    """
    state = _scramble(torch.tensor([seed, stream], dtype=torch.int64)).cumsum(0)[-1]
    for number in ids:
        state = _scramble(state + GOLDEN + number.to(torch.int64))
    return _shift(state, 11).double() * 2.0**-53


def _scramble(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * FIRST
    value = (value ^ _shift(value, 27)) * SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Return a logical shift to the right of 64 bits; torch's own fills up with the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
