"""Tables in the place of language models: what a weighted fit tends to, computed from expected weights, without any training.

Shapes: X prompts, Y responses, C made-up contexts of a response, B prompts and M = B·K responses of a batch.
With responses drawn from μ(y|x), training by weights w tends to π(y|x) ∝ μ(y|x) · E[w | x, y].
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from worker.var.candidates import StackedCandidates, WeightChoices
from worker.var.stacks import weigh
from worker.var.terms import make_terms

LAMBDA = 0.5


@dataclass(frozen=True)
class World:
    """log π_ref(y|x) and r(x, y), both float64 [X, Y], and the length of each response [Y]."""

    reference: Tensor
    rewards: Tensor
    num_tokens: Tensor

    @classmethod
    def draw(cls, seed: int, *, offset: float = 0.0, num_prompts: int = 24, num_responses: int = 30) -> "World":
        """Rewards N(0, 1), and of each prompt an offset N(0, offset²) on all of its rewards; lengths lognormal around 20."""
        chance = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=chance, dtype=torch.float64)

        reference_XY = torch.log_softmax(normal(num_prompts, num_responses), dim=1)
        reward_XY = normal(num_prompts, num_responses) + offset * normal(num_prompts, 1)
        return cls(reference_XY, reward_XY, (3 + 0.5 * normal(num_responses)).exp().round().clamp(min=2).long())

    @cached_property
    def log_z(self) -> Tensor:
        return torch.logsumexp(self.reference + self.rewards / LAMBDA, dim=1)

    @cached_property
    def optimum(self) -> Tensor:
        """π*(y|x), as probabilities."""
        return (self.reference + self.rewards / LAMBDA - self.log_z[:, None]).exp()

    def tilt(self, temperature: float) -> Tensor:
        """Return the optimum of another λ: the best reward that its KL allows."""
        return torch.softmax(self.reference + self.rewards / temperature, dim=1)

    def divergence(self, policy_XY: Tensor) -> float:
        """Return KL(π ‖ π_ref), mean over the prompts."""
        return float((policy_XY * (policy_XY.clamp(min=1e-300).log() - self.reference)).sum(dim=1).mean())

    def reward(self, policy_XY: Tensor) -> float:
        return float((policy_XY * self.rewards).sum(dim=1).mean())

    def miss(self, limit_XY: Tensor) -> float:
        """Return KL(π* ‖ limit), mean over the prompts."""
        return float((self.optimum * (self.optimum.log() - limit_XY.clamp(min=1e-300).log())).sum(dim=1).mean())

    def regret(self, limit_XY: Tensor) -> float:
        """Return how much more reward the best policy of the same mean KL to the reference has."""
        wanted, low, high = self.divergence(limit_XY), math.log(1e-3), math.log(1e3)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.divergence(self.tilt(math.exp(middle))) > wanted else (low, middle)
        return self.reward(self.tilt(math.exp(low))) - self.reward(limit_XY)


def limit_of(source_XY: Tensor, weight_XY: Tensor) -> Tensor:
    """Return what training tends to: μ(y|x) · E[w | x, y], made a distribution; `source_XY`: log μ."""
    return torch.softmax(source_XY + weight_XY.clamp(min=1e-300).log(), dim=1)


def expected_weights(
    world: World, choices: WeightChoices, *, batch_size: int = 8, each: int = 1, contexts: int = 64, seed: int = 0,
    source_XY: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return E[w | x, y] over what else the batch may hold, [X, Y]: the code's own weights, the same contexts for all y of an x.

    Of a batch of `batch_size` different prompts with `each` responses, drawn from `source_XY` (log μ; None: the reference).
    """
    num_prompts, num_responses = world.reference.shape
    chance = torch.Generator().manual_seed(seed)
    source = (world.reference if source_XY is None else source_XY).exp()
    rows = []
    own_M = torch.arange(batch_size).repeat_interleave(each)
    for x in range(num_prompts):
        others = torch.rand(contexts, num_prompts, generator=chance)
        others[:, x] = -1.0  # the prompt itself stands first
        prompt_CB = others.argsort(dim=1)[:, :batch_size]
        prompt_CM = prompt_CB[:, own_M]
        response_CM = torch.multinomial(source[prompt_CM.flatten()], 1, generator=chance).view(contexts, -1)
        prompt_SB = prompt_CB.repeat_interleave(num_responses, dim=0)
        response_SM = response_CM.repeat_interleave(num_responses, dim=0)
        response_SM[:, 0] = torch.arange(num_responses).repeat(contexts)
        stack = StackedCandidates(
            own_SM=own_M.expand(len(response_SM), -1),
            logprob_SBC=world.reference[prompt_SB[:, :, None], response_SM[:, None, :]],
            num_tokens_SM=world.num_tokens[response_SM],
            reward_SBC=world.rewards[prompt_SB[:, :, None], response_SM[:, None, :]],
        )
        weight_S = weigh(make_terms(stack, choices), choices.lambda_).weight_SM[:, 0]
        rows.append(weight_S.view(contexts, num_responses).mean(dim=0))
    return torch.stack(rows)


def effective_share(weight_X: Tensor) -> float:
    """Return (Σw)²/(X Σw²): how evenly the prompts count."""
    return float(weight_X.sum() ** 2 / (len(weight_X) * weight_X.square().sum()))
