"""The loss L = −Σ_j c_j Σ_t log π_θ(y_jt | x, y_j<t), with factors c_j fixed over the global batch.

Shapes: M responses of the global batch, N response tokens, V vocabulary. As c_j is known before the first forward pass and
already holds every mean, the losses of micro-batches (or ranks) are added, never averaged.
"""

from typing import Literal

import torch
from torch import Tensor

LossNorm = Literal["token_mean", "sequence_sum", "sequence_mean"]


@torch.no_grad()
def token_coefficients(weight_M: Tensor, num_tokens_M: Tensor, loss_norm: LossNorm, *, enters_M: Tensor | None = None) -> Tensor:
    """Return the factor c_j of each token's −log π_θ: same dtype as the weights, [M].

    token_mean      c_j = w_j / Σ_k T_k       mean over the tokens in the loss
    sequence_sum    c_j = w_j / M             mean over the responses of Σ_t log π_θ: the literal log π_θ(y|x)
    sequence_mean   c_j = w_j / (M T_j)       mean over the responses of the per-token mean
    T_j and M are counted over the responses that enter the loss (`enters_M` bool; None: all). All three agree up to a factor
    when lengths are equal. Raises ValueError for an unknown name.
    """
    if enters_M is None:
        enters_M = torch.ones_like(num_tokens_M, dtype=torch.bool)
    weight_M = weight_M * enters_M
    num_responses = enters_M.sum().clamp(min=1)
    if loss_norm == "token_mean":
        return weight_M / (num_tokens_M * enters_M).sum().clamp(min=1)
    if loss_norm == "sequence_sum":
        return weight_M / num_responses
    if loss_norm == "sequence_mean":
        return weight_M / (num_responses * num_tokens_M.clamp(min=1))
    raise ValueError(f"unknown loss_norm {loss_norm!r}: use token_mean, sequence_sum or sequence_mean")
