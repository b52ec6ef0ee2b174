"""KL(π_θ‖π_ref) at each position, exact over the whole vocabulary, without ever making a [positions, vocabulary] table.

Shapes: N positions, D hidden size, V vocabulary, C positions of one chunk. With p = π_θ(·|x,y_<n) and q = π_ref(·|x,y_<n):
    KL_n = Σ_v p_v (log p_v − log q_v) = Σ_v [p_v (log p_v − log q_v) + q_v − p_v]
The second form is what is computed: its terms are ≥ 0, and a rounding error of log Z, which moves all log p_v alike, enters it in
second order only, where the first form has it in full (1e-6 at a vocabulary of 150 000, as much as one small update of a policy).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worker.var.logprobs import logit_chunks

TABLE_NUMBERS = 2**22  # of one [C, V] table; five of them exist at a time


@dataclass(frozen=True)
class Predictions:
    """What makes a model's logits at N positions: softcap(scale · (h Wᵀ + b))."""

    hidden_ND: Tensor
    head_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0


class Divergences(NamedTuple):
    """KL_n, and the log-probability of each position's target under both models: float32 [N] each."""

    kl_N: Tensor
    policy_N: Tensor
    reference_N: Tensor


@torch.no_grad()
def token_divergences(
    policy: Predictions, reference: Predictions, target_N: Tensor, *, table_numbers: int = TABLE_NUMBERS
) -> Divergences:
    """Return the divergences of two models with one vocabulary, at the same positions; no gradient."""
    size = max(1, table_numbers // len(policy.head_VD))
    parts = [
        _compare(torch.log_softmax(policy_CV, dim=1), torch.log_softmax(reference_CV, dim=1), target_N[rows, None])
        for (rows, policy_CV), (_, reference_CV) in zip(_logits(policy, size), _logits(reference, size), strict=True)
    ]
    if not parts:
        return Divergences(*(policy.hidden_ND.new_zeros(0) for _ in range(3)))
    return Divergences(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _logits(model: Predictions, size: int) -> Iterator[tuple[slice, Tensor]]:
    hidden_ND = model.hidden_ND.to(model.head_VD.dtype)
    return logit_chunks(hidden_ND, model.head_VD, model.bias_V, model.softcap, model.scale, size)


def _compare(log_p_CV: Tensor, log_q_CV: Tensor, target_C1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    policy_C, reference_C = (table.gather(1, target_C1)[:, 0] for table in (log_p_CV, log_q_CV))
    p_CV = log_p_CV.exp()
    term_CV = log_p_CV.sub_(log_q_CV).mul_(p_CV)
    term_CV.masked_fill_(p_CV == 0, 0.0)  # 0 · log 0
    return term_CV.add_(log_q_CV.exp_()).sub_(p_CV).sum(dim=1).clamp_(min=0.0), policy_C, reference_C
