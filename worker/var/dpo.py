"""Direct preference optimisation, the baseline (Rafailov et al. 2023, arXiv 2305.18290), as fixed factors of log-probabilities.

Shapes: M responses of the global batch, P pairs of a chosen and a rejected one, given as indices of responses.
    m_p = β [(log π_θ(y_c|x) − log π_ref(y_c|x)) − (log π_θ(y_r|x) − log π_ref(y_r|x))]          (its equation 7)
    L = −1/P Σ_p log σ(m_p)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class DpoTerms:
    """The loss of some pairs, detached; `coefficient_M` is each token's factor c_j in worker.var.logprobs.weighted_nll.

    As ∂L/∂log π_θ(y_c) = −β σ(−m)/P and ∂L/∂log π_θ(y_r) = +β σ(−m)/P, the gradient of −Σ_j c_j log π_θ(y_j|x) with
    c_c = Σ β σ(−m)/P and c_r = −Σ β σ(−m)/P over the pairs of a response is that of L. Its value is not.
    """

    loss: Tensor
    coefficient_M: Tensor
    margin_P: Tensor
    gain_M: Tensor  # β (log π_θ − log π_ref), DPO's implicit reward


@torch.no_grad()
def dpo_terms(
    logprob_M: Tensor, reference_M: Tensor, chosen_P: Tensor, rejected_P: Tensor, beta: float, num_pairs: int
) -> DpoTerms:
    """Loss and factors of the pairs (chosen_P, rejected_P); `num_pairs` counts those of the global batch, so that parts add up.

    logprob_M, reference_M: log π_θ and log π_ref of each response, summed over its tokens; what is in no pair isn't read.
    """
    gain_M = beta * (logprob_M - reference_M)
    margin_P = gain_M[chosen_P] - gain_M[rejected_P]
    slope_P = beta * torch.sigmoid(-margin_P) / num_pairs
    coefficient_M = torch.zeros_like(logprob_M).index_add(0, chosen_P, slope_P).index_add(0, rejected_P, -slope_P)
    return DpoTerms(-logsigmoid(margin_P).sum() / num_pairs, coefficient_M, margin_P, gain_M)
