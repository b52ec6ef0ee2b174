"""Weights of responses that the policy itself has just drawn: self-normalised importance weights, prompt by prompt.

Shapes: B prompts x_i, M = B K fresh responses y_j ~ π_s(·|x_own(j)); π_s is the policy as it drew them, frozen since.
    w_j = K u_j / Σ_{k of the same prompt} u_k,       u_j = π_ref(y_j|x)/π_s(y_j|x) · e^(r_j/λ)
Σ_j w_j ∇log π_θ(y_j|x) / K estimates E_{y~π*} ∇log π_θ(y|x), as π* ∝ π_ref e^(r/λ) = π_s · u. Two limits: with π_s = π_ref this
is the preset within_prompt (K = 2: σ(Δr/λ) and σ(−Δr/λ) of the prompt's weight), and with π_s = π* all weights are 1, so that
π* is where training comes to rest, whatever K is.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from worker.var.candidates import Candidates, WeightChoices


def online_choices(choices: WeightChoices) -> WeightChoices:
    """Return the choices for fresh responses: Z(x) over the prompt's own ones, weights of mean 1, their own rewards.

    `posterior` and `ratio` become the importance weights above; `reward` stays without π_ref and π_s: u = e^(r/λ).
    `logprob_norm` takes log π_ref/π_s as it takes log π_ref: `sum` is the ratio above, `mean` its T-th root, the ratio per token,
    which spreads far less for long responses and no longer has π* as its resting place, but a policy nearer to π_ref's own taste.
    """
    fresh = replace(choices, weight_form="posterior", partition_scope="prompt", cross_reward="reuse", mean_one=True)
    return replace(fresh, weight_form="ratio") if choices.weight_form == "reward" else fresh


@torch.no_grad()
def online_candidates(
    own_M: Tensor, reference_M: Tensor, sampler_M: Tensor, num_tokens_M: Tensor, reward_M: Tensor
) -> Candidates:
    """Fresh responses as the candidates that compute_weights takes, under `online_choices`.

    own_M int64: index of each response's prompt, every prompt as often; reference_M and sampler_M: log π_ref and log π_s, summed
    over the tokens, in nats; reward_M: r(x_own(j), y_j). The prior of Z(x) is log π_ref − log π_s.
    """
    index_M = torch.arange(len(own_M))
    ratio_BM = torch.full((int(own_M.max()) + 1, len(own_M)), math.nan, dtype=reference_M.dtype)
    reward_BM = torch.full_like(ratio_BM, math.nan, dtype=reward_M.dtype)
    ratio_BM[own_M, index_M] = reference_M - sampler_M
    reward_BM[own_M, index_M] = reward_M
    return Candidates(own_M, ratio_BM, num_tokens_M, reward_BM)
