"""What is done to rewards before they are weighed, as the recipe says: after the noise, and not in the kept scores.

Preview and training treat alike: both fit the line over the own pairs of all scored batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.domain.training.rewards import RewardSettings
from worker.stages.examples import Encoded
from worker.stages.scoring.pairs import own_prompts
from worker.var.rewards import FLAT, LengthFit, fit_length, standardise_within


@dataclass(frozen=True)
class Treatment:
    """`fit`: the line of length that is taken out (flat: nothing is); `per_prompt`: in deviations of the prompt's own."""

    fit: LengthFit = FLAT
    per_prompt: bool = False

    def own(self, reward_N: Tensor, num_tokens_N: Tensor, prompt_N: Tensor) -> Tensor:
        """Return rewards of responses with their own prompts."""
        reward_N = self.fit.take_out(reward_N, num_tokens_N)
        return standardise_within(reward_N, prompt_N) if self.per_prompt else reward_N

    def matrices(self, rewards: Sequence[Tensor], batches: Sequence[Sequence[Encoded]]) -> list[Tensor]:
        """Return the rewards of all batches."""
        return [self.matrix(reward_BM, batch) for reward_BM, batch in zip(rewards, batches, strict=True)]

    def matrix(self, reward_BM: Tensor, batch: Sequence[Encoded]) -> Tensor:
        """Return the rewards of a batch; with `per_prompt` those of other prompts' responses are not read, and lost."""
        num_tokens_M, own_M = count_tokens(batch), own_prompts(batch)
        if not self.per_prompt:
            return self.fit.take_out(reward_BM, num_tokens_M)
        own_reward_M = self.own(reward_BM.gather(0, own_M[None])[0], num_tokens_M, own_M)
        return torch.full_like(reward_BM, torch.nan).scatter(0, own_M[None], own_reward_M[None])


UNTREATED = Treatment()


def choose_treatment(batches: Sequence[Sequence[Encoded]], rewards: Sequence[Tensor], settings: RewardSettings) -> Treatment:
    """Return what the recipe asks for, with the line through these rewards."""
    if not settings.length_control:
        return Treatment(per_prompt=settings.per_prompt)
    own = [reward_BM.gather(0, own_prompts(batch)[None])[0] for batch, reward_BM in zip(batches, rewards, strict=True)]
    return Treatment(fit_length(torch.cat(own), torch.cat([count_tokens(batch) for batch in batches])), settings.per_prompt)


def count_tokens(batch: Sequence[Encoded]) -> Tensor:
    """num_tokens_M: the lengths of a batch's responses."""
    return torch.tensor([len(response.ids) for example in batch for response in example.responses])
