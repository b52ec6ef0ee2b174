"""Z(x) from draws of the reference: Ẑ(x) = 1/K Σ_k e^(r(x, y_k)/λ) with y_k ~ π_ref(·|x), whose mean over draws is Z(x).

Shapes: S stacks, B prompts, K draws of each; leading dimensions are free. Exponents are r/λ less the prompt's largest, so that
all stays finite at |r/λ| = 1e4. Nothing here carries a gradient.

A response that is itself draw k is weighed by the others alone: Ẑ_−k = 1/(K−1) Σ_{l≠k} e^(r_l/λ). Then Ẑ_−k knows nothing of
y_k, and E[e^(r_k/λ)/Ẑ_−k | y_k] is e^(r_k/λ) times a factor of the prompt: what training by these weights tends to is π*.
With its own term in Ẑ a response would hold its own weight down, to K at most: that is the preset within_prompt.
"""

import math

import torch
from torch import Tensor


def log_partition(exponent_BK: Tensor) -> Tensor:
    """Return log Ẑ of each prompt: log of the mean of e^exponent over the draws, [B]."""
    return torch.logsumexp(exponent_BK, dim=-1) - math.log(exponent_BK.shape[-1])


def log_partition_without(exponent_BK: Tensor) -> Tensor:
    """Return log Ẑ_−k for every draw k, over the other draws alone: [B, K]; K is 2 or more.

    The sums before and behind each draw, rather than the whole less one: where a draw makes nearly all of it, nothing is lost.
    """
    before_BK, behind_BK = exponent_BK.logcumsumexp(-1), exponent_BK.flip(-1).logcumsumexp(-1).flip(-1)
    nothing_B1 = torch.full_like(exponent_BK[..., :1], -math.inf)
    before_BK = torch.cat([nothing_B1, before_BK[..., :-1]], dim=-1)
    behind_BK = torch.cat([behind_BK[..., 1:], nothing_B1], dim=-1)
    return torch.logaddexp(before_BK, behind_BK) - math.log(exponent_BK.shape[-1] - 1)


def partition_errors(exponent_BK: Tensor) -> Tensor:
    """Return the standard error of log Ẑ of each prompt by the delta method, in nats: s(u)/(ū √K) with u = e^exponent, [B].

    From K draws it can't exceed 1: a Ẑ that a single draw makes has an error of about 1 or more, and a bias below.
    """
    term_BK = (exponent_BK - exponent_BK.amax(dim=-1, keepdim=True)).double().exp()
    return term_BK.std(dim=-1, correction=1) / (term_BK.mean(dim=-1) * math.sqrt(term_BK.shape[-1]))


def draws_needed(error_B: Tensor, num_draws: int, wanted: float) -> int:
    """Return how many draws a prompt give log Ẑ a root mean square error of `wanted` nats: the error falls as 1/√K."""
    return max(2, math.ceil(num_draws * float(error_B.double().square().mean()) / wanted**2 - 1e-9))
