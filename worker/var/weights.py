"""The weights w(x, y) of reward-weighted fine-tuning, in every reading of the method that docs/method.md lists.

Shapes: B prompts x_i, M responses y_j (y_j belongs to prompt own_M[j]). The weights are constants of the loss: nothing here
carries a gradient. Exponentials stay in log space to the last line, with row maxima taken off.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from worker.var.candidates import Candidates, WeightChoices, exponents, log_priors

__all__ = [
    "Candidates",
    "TargetUnreachable",
    "WeightChoices",
    "compute_weights",
    "effective_sample_size",
    "find_lambda",
    "log_weights",
    "partition_shares",
]

LOG_WEIGHT_LIMIT = 80.0  # e^80 is finite in float32; only `ratio` and `reward` without `mean_one` can reach it
SMALLEST_LAMBDA, LARGEST_LAMBDA, LAMBDAS_PER_DECADE = 1e-4, 1e5, 2


class TargetUnreachable(ValueError):
    """No λ gives the wanted effective sample size."""


@torch.no_grad()
def partition_shares(
    candidates: Candidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0
) -> Tensor:
    """Each candidate's share of Z(x_i): softmax over j of [log prior_ij + r_ij/λ]; [B, M], rows sum to 1."""
    exponent_BM = exponents(candidates, choices, reward_mean, reward_std)
    return torch.softmax(log_priors(candidates, choices) + exponent_BM - exponent_BM.amax(dim=1, keepdim=True), dim=1)


@torch.no_grad()
def log_weights(candidates: Candidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0) -> Tensor:
    """log w_j before any rescaling: [M]; with i = own(j):

    posterior   w_j = π_ref(y_j|x_i) e^(r_ij/λ) / Σ_k π_ref(y_k|x_i) e^(r_ik/λ)          (arXiv 2502.11026)
    ratio       w_j = e^(r_ij/λ) / Ẑ_i,  Ẑ_i = Σ_k ω_ik e^(r_ik/λ) / Σ_k ω_ik            (estimates π*/π_ref)
    reward      w_j = e^(r_ij/λ)                                                         (the control without π_ref)
    """
    own_M = candidates.own_M
    exponent_BM = exponents(candidates, choices, reward_mean, reward_std)
    if choices.weight_form == "reward":
        return exponent_BM.gather(0, own_M[None])[0]
    prior_BM = log_priors(candidates, choices)
    # The row's largest r/λ comes off first: at 1e4 float32 has three decimals left, too few to add ℓ to.
    exponent_BM = exponent_BM - exponent_BM.amax(dim=1, keepdim=True)
    log_z_B = torch.logsumexp(prior_BM + exponent_BM, dim=1)
    if choices.weight_form == "ratio":
        own_BM, log_z_B = exponent_BM, log_z_B - torch.logsumexp(prior_BM, dim=1)
    else:
        own_BM = prior_BM + exponent_BM
    return own_BM.gather(0, own_M[None])[0] - log_z_B[own_M]


@torch.no_grad()
def compute_weights(
    candidates: Candidates, choices: WeightChoices, *, reward_mean: float = 0.0, reward_std: float = 1.0
) -> Tensor:
    """w_j of every response: float32 (float64 stays) [M], detached. With `mean_one`: M w_j / Σ w, over those in the loss.

    `reward_mean` and `reward_std` are those of the scored data set, used by `reward_norm: zscore`.
    Raises ValueError when a reward or log-probability that the choices need is missing.
    """
    log_weight_M = log_weights(candidates, choices, reward_mean=reward_mean, reward_std=reward_std)
    if candidates.enters_M is not None:
        log_weight_M = log_weight_M.masked_fill(~candidates.enters_M, -math.inf)
    if not choices.mean_one:
        return log_weight_M.clamp(max=LOG_WEIGHT_LIMIT).exp()
    num_entering = int((log_weight_M > -math.inf).sum())
    return torch.softmax(log_weight_M, dim=0) * num_entering if num_entering else torch.zeros_like(log_weight_M)


def effective_sample_size(weight_M: Tensor) -> float:
    """(Σw)² / Σw², in responses; 0 when all weights are 0. Scale-free, so the largest weight is divided out first."""
    largest = float(weight_M.max())
    if largest <= 0:
        return 0.0
    scaled_M = weight_M.double() / largest
    return float(scaled_M.sum() ** 2 / scaled_M.square().sum())


def find_lambda(
    batches: Sequence[Candidates],
    choices: WeightChoices,
    target_ess: float,
    *,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
    tolerance: float = 1e-3,
) -> float:
    """The λ whose mean effective sample size over the batches is `target_ess` (a share of the responses in the loss).

    The share need not grow with λ for every form (a summed log π_ref takes over when λ is large), so the λ axis is walked
    first, from small to large, and the first crossing is bisected on log λ until the share is within `tolerance`.
    Raises TargetUnreachable, with the shares that can be had, when there is no crossing.
    """
    scaled = replace(choices, mean_one=True)

    def excess(log_lambda: float) -> float:
        chosen = replace(scaled, lambda_=math.exp(log_lambda))
        shares = []
        for batch in batches:
            weight_M = compute_weights(batch, chosen, reward_mean=reward_mean, reward_std=reward_std)
            num_entering = len(weight_M) if batch.enters_M is None else int(batch.enters_M.sum())
            if num_entering:
                shares.append(effective_sample_size(weight_M) / num_entering)
        return fmean(shares) - target_ess

    low, high = math.log(SMALLEST_LAMBDA), math.log(LARGEST_LAMBDA)
    num_steps = round((high - low) / math.log(10) * LAMBDAS_PER_DECADE)
    grid = [low + (high - low) * k / num_steps for k in range(num_steps + 1)]
    excesses = [excess(log_lambda) for log_lambda in grid]
    for (a, excess_a), (b, excess_b) in pairwise(zip(grid, excesses, strict=True)):
        if excess_a * excess_b <= 0:
            return math.exp(_bisect(excess, a, b, excess_a, tolerance))
    least, most = min(excesses) + target_ess, max(excesses) + target_ess
    raise TargetUnreachable(
        f"target_ess {target_ess:g} can't be reached: over all λ the effective share lies between {least:.3g} and {most:.3g}. "
        "Choose a target in between, or give lambda."
    )


def _bisect(excess: Callable[[float], float], a: float, b: float, excess_a: float, tolerance: float) -> float:
    while True:
        middle = (a + b) / 2
        excess_middle = excess(middle)
        if abs(excess_middle) <= tolerance or b - a < 1e-9:
            return middle
        if (excess_middle > 0) == (excess_a > 0):
            a = middle
        else:
            b = middle
