"""Policy gradients on fresh responses: advantages within each prompt's group, and the factors of the tokens.

Shapes: B prompts, M = Σ K_i fresh responses y_j ~ π_s(·|x_own(j)) with rewards r_j, of T_j tokens; U units: tokens, or responses.

    rloo    A_j = r_j − mean of the other K − 1                    Ahmadian et al. 2024, arXiv 2402.14740
    grpo    A_j = (r_j − mean of the group) / (std of it + 1e-4)   Shao et al. 2024, arXiv 2402.03300; std over K − 1, as in TRL
    raft    A_j = 1 for the best of the group, 0 for the others    Dong et al. 2023, arXiv 2304.06767: best of K, fine-tuning

A group whose rewards are all equal teaches nothing (rloo, grpo); of equal best ones the first is taken. The loss is that of PPO,
its ratio ρ = π_θ/π_s clipped where it would gain from going further, mean over the units of the batch:

    L = −1/U Σ_u [min(ρ_u A_u, clip(ρ_u, 1 − ε, 1 + ε) A_u) − κ k3_u],    k3 = π_ref/π_θ − log(π_ref/π_θ) − 1  (Schulman 2020)

Units of grpo are tokens, with k3 as the KL of π_θ from π_ref at each. Units of rloo are whole responses, without k3: there the
KL is taken off the reward, r_j − κ log π_s(y_j|x)/π_ref(y_j|x).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SPREAD_FLOOR = 1e-4  # of a group's standard deviation, as in TRL
LARGEST_LOG_RATIO = 20.0  # beyond it e^x would drown the batch; the clipped side has no slope there anyway

Estimator = Literal["raft", "rloo", "grpo"]


@dataclass(frozen=True)
class GroupTerms:
    """The loss of some units, detached, and the factor of each unit's tokens in worker.var.logprobs.weighted_nll: −∂L/∂log π_θ.

    `clipped_U`: which units have no slope because their ratio left the bounds; `kl_U`: k3 of each.
    """

    loss: Tensor
    coefficient_U: Tensor
    clipped_U: Tensor
    kl_U: Tensor


@torch.no_grad()
def group_advantages(reward_M: Tensor, own_M: Tensor, estimator: Estimator) -> Tensor:
    """A_j of every response: [M]; groups are the responses of one prompt, of two or more."""
    num_B = own_M.bincount()
    count_M = num_B[own_M].to(reward_M.dtype)
    sum_M = reward_M.new_zeros(len(num_B)).index_add(0, own_M, reward_M)[own_M]
    if estimator == "raft":
        best_B = reward_M.new_full((len(num_B),), -torch.inf).scatter_reduce(0, own_M, reward_M, "amax")
        index_M = torch.arange(len(own_M), device=own_M.device)
        last = len(own_M)
        first_B = torch.full_like(num_B, last).scatter_reduce(
            0, own_M, torch.where(reward_M == best_B[own_M], index_M, last), "amin"
        )
        return (index_M == first_B[own_M]).to(reward_M.dtype)
    if estimator == "rloo":
        return reward_M - (sum_M - reward_M) / (count_M - 1)
    centred_M = reward_M - sum_M / count_M
    square_M = reward_M.new_zeros(len(num_B)).index_add(0, own_M, centred_M.square())[own_M]
    return centred_M / ((square_M / (count_M - 1)).sqrt() + SPREAD_FLOOR)


@torch.no_grad()
def group_terms(
    logprob_U: Tensor, sampler_U: Tensor, reference_U: Tensor | None, advantage_U: Tensor, clip: float, kappa: float, num: int
) -> GroupTerms:
    """Loss and factors of units: log π_θ, log π_s and log π_ref of each (None: without k3), and their advantages.

    `num` counts the units of the global batch, so that parts add up. ∂(ρA)/∂log π_θ = ρA, ∂k3/∂log π_θ = 1 − π_ref/π_θ.
    """
    ratio_U = (logprob_U - sampler_U).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    gain_U, bounded_U = ratio_U * advantage_U, ratio_U.clamp(1 - clip, 1 + clip) * advantage_U
    clipped_U = bounded_U < gain_U
    slope_U = torch.where(clipped_U, 0.0, gain_U)
    kl_U = torch.zeros_like(logprob_U)
    if reference_U is not None:
        apart_U = (reference_U - logprob_U).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        kl_U = torch.expm1(apart_U) - apart_U
        slope_U = slope_U + kappa * torch.expm1(apart_U)
    loss = (kappa * kl_U - torch.minimum(gain_U, bounded_U)).sum() / num
    return GroupTerms(loss, slope_U / num, clipped_U, kl_U)
