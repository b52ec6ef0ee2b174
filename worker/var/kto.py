"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): each response has a label of its own.

Shapes: M labelled responses, sign_M +1 for a desirable and −1 for an undesirable one, 0 for one that doesn't count. With
r_j = β (log π_θ(y_j|x) − log π_ref(y_j|x)), both summed over the tokens, and the reference point z_0 = β KL:

    L = 1/N Σ_j w_j (1 − σ(s_j (r_j − z_0))),      w_j = w_D where s_j = +1, w_U where s_j = −1              (its equation 8)

N counts the labelled responses of the global batch, which makes parts add up. KL is that of the policy from the reference,
estimated from other prompts' responses, max(0, mean over i of log π_θ(y_{i+1}|x_i) − log π_ref(y_{i+1}|x_i)); no gradient flows
through it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KtoTerms:
    """The loss, detached; `coefficient_M` as worker.var.preferences.PairTerms has it."""

    loss: Tensor
    coefficient_M: Tensor
    reward_M: Tensor


@torch.no_grad()
def kto_terms(
    logprob_M: Tensor,
    reference_M: Tensor,
    sign_M: Tensor,
    kl: float,
    beta: float,
    weights: tuple[float, float],
    num_labelled: int,
) -> KtoTerms:
    """Loss and factors; `weights`: w_D and w_U. What doesn't count is not read.

    As ∂(1 − σ(u))/∂u = −σ(u) σ(−u), a desirable response has the factor w_D β σ(u) σ(−u)/N, an undesirable one −w_U … .
    """
    counts_M = sign_M != 0
    reward_M = torch.where(counts_M, beta * (logprob_M - reference_M), 0.0)
    desirable, undesirable = (logprob_M.new_tensor(weight) for weight in weights)
    weight_M = torch.where(sign_M > 0, desirable, undesirable) * counts_M / num_labelled
    value_M = torch.sigmoid(sign_M * (reward_M - beta * kl))
    slope_M = weight_M * beta * value_M * (1 - value_M)
    return KtoTerms((weight_M * (1 - value_M)).sum(), sign_M * slope_M, reward_M)
