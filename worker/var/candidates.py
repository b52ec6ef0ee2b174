"""One batch of scored candidates, the choices of the method, and the two terms of log Z(x): the prior and r/λ.

Shapes: B prompts x_i, M responses y_j (M = Σ K_i; y_j belongs to prompt own_M[j]). Float32, or float64 when given float64.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightChoices:
    """What the method leaves open (docs/method.md); `lambda_` is the temperature λ > 0 in units of the (normalised) reward."""

    weight_form: Literal["posterior", "ratio", "reward"] = "posterior"
    partition_scope: Literal["batch", "prompt"] = "batch"
    logprob_norm: Literal["sum", "mean"] = "mean"
    cross_reward: Literal["score", "reuse"] = "score"
    reward_norm: Literal["none", "zscore"] = "none"
    mean_one: bool = True
    lambda_: float = 1.0


@dataclass(frozen=True)
class Candidates:
    """The responses of one global batch, scored. Entries that the choices don't need may be NaN and are never read.

    own_M        int64   index of each response's prompt
    logprob_BM   float   log π_ref(y_j|x_i), summed over the response's tokens, in nats
    num_tokens_M int64   response lengths
    reward_BM    float   r(x_i, y_j)
    enters_M     bool    the responses that enter the loss (None: all); the others get weight 0 but stand in Z(x) all the same
    """

    own_M: Tensor
    logprob_BM: Tensor
    num_tokens_M: Tensor
    reward_BM: Tensor
    enters_M: Tensor | None = None


def allowed_pairs(candidates: Candidates, choices: WeightChoices) -> Tensor:
    """Which responses stand in Z(x_i): bool [B, M]; all of the batch, or the prompt's own."""
    same_BM = candidates.own_M == torch.arange(len(candidates.reward_BM), device=candidates.own_M.device)[:, None]
    return same_BM if choices.partition_scope == "prompt" else torch.ones_like(same_BM)


def own_rewards(candidates: Candidates) -> Tensor:
    """r(x_own(j), y_j): [M], as the reward source gave it."""
    return _at_least_float32(candidates.reward_BM.gather(0, candidates.own_M[None])[0])


def exponents(candidates: Candidates, choices: WeightChoices, reward_mean: float = 0.0, reward_std: float = 1.0) -> Tensor:
    """r_ij/λ, z-scored first if so chosen: [B, M], −inf for responses outside Z(x_i).

    The form `reward` has no cross terms, so it reuses each response's own reward whatever `cross_reward` says.
    """
    if not choices.lambda_ > 0:
        raise ValueError(f"lambda is {choices.lambda_}, but a temperature must be above 0")
    reward_BM = _at_least_float32(candidates.reward_BM)
    if choices.cross_reward == "reuse" or choices.weight_form == "reward":
        reward_BM = own_rewards(candidates).expand(reward_BM.shape)
    # Rewards without any spread stay as they are: they carry no signal, and 0/0 must not make one up.
    mean, std = (reward_mean, reward_std or 1.0) if choices.reward_norm == "zscore" else (0.0, 1.0)
    return _mask((reward_BM - mean) / (std * choices.lambda_), allowed_pairs(candidates, choices), "reward r(x, y)")


def log_priors(candidates: Candidates, choices: WeightChoices) -> Tensor:
    """What stands before exp(r/λ) in Z(x_i), in log space: [B, M], −inf for responses outside Z(x_i).

    posterior: ℓ_ij = log π_ref(y_j|x_i)      ratio: log ω_ij = ℓ_ij − ℓ_own(j),j      reward: 0
    where ℓ is the sum over the response's tokens or their mean. Row maxima are taken off (a row's factor cancels):
    at a log-probability of −30 000 float32 steps by 0.002, too coarse to add r/λ to.
    """
    allowed_BM = allowed_pairs(candidates, choices)
    if choices.weight_form == "reward" or (choices.weight_form == "ratio" and choices.partition_scope == "prompt"):
        prior_BM = _at_least_float32(torch.zeros_like(candidates.reward_BM))  # ω = 1 within a prompt: ℓ isn't even read
    else:
        prior_BM = _at_least_float32(candidates.logprob_BM)
        if choices.logprob_norm == "mean":
            prior_BM = prior_BM / candidates.num_tokens_M.clamp(min=1)
        if choices.weight_form == "ratio":
            prior_BM = prior_BM - prior_BM.gather(0, candidates.own_M[None])
    prior_BM = _mask(prior_BM, allowed_BM, "log-probability log π_ref(y|x)")
    return prior_BM - prior_BM.amax(dim=1, keepdim=True)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _mask(values_BM: Tensor, allowed_BM: Tensor, what: str) -> Tensor:
    missing = (allowed_BM & ~values_BM.isfinite()).nonzero()
    if len(missing):
        i, j = missing[0].tolist()
        raise ValueError(f"the {what} of response {j} with prompt {i} of the batch is missing or not finite: score that pair")
    return values_BM.masked_fill(~allowed_BM, -math.inf)
