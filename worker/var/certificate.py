"""Early stopping with a certificate: which cross pairs need not be scored, because they can't matter in Z(x).

Shapes: B prompts x_i, M responses y_j of one batch, response j of prompt own_M[j]; scores in nats, rewards in the source's unit.

Summed log-probabilities only fall as tokens are added: ℓ_ij ≤ ℓ_ij(t) = Σ_{s≤t} log π_ref(y_js|x_i). With no reward above R, the
term of a pair in Z(x_i) is at most exp(ℓ_ij(t) + R/λ), and Z(x_i) is at least its largest own term exp(best_i). So as soon as

    ℓ_ij(t) + R/λ < best_i − τ,      best_i = max over j of prompt i of (ℓ_ij + r_ij/λ)                     (method.md, 6.4)

the pair's share of Z(x_i) is below e^−τ, and it may be dropped: its log-probability is then written as −inf, its reward is never
asked. All weights of a row grow by the same factor, at most 1/(1 − M e^−τ): with τ = 25, 1e-9 up to 70 responses a batch.
A pair dropped at λ may be dropped at every larger λ too (R is at least any own reward, so r/λ can only lose ground), hence scores
that were stopped at λ serve all larger ones. This holds for the posterior with summed log-probabilities over the batch alone.

How a score pass uses it: own pairs first, in full; `logprob_floors` once per batch; after each chunk of tokens `droppable`;
ask the reward model about the surviving pairs only, and check `reward_BM <= reward_bound` on what it said.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from worker.var.candidates import WeightChoices

TAU = 25.0


def holds_for(choices: "WeightChoices") -> bool:
    """Return whether pairs that were dropped with this certificate may be missing from Z(x) under these choices."""
    return (choices.weight_form, choices.partition_scope, choices.logprob_norm) == ("posterior", "batch", "sum")


def bound_rewards(own_reward_N: Tensor, margin_std: float = 1.0) -> float:
    """R from a sample: the largest of all own rewards of the data set and a margin, in their standard deviations, on top."""
    reward_N = own_reward_N.double()
    return float(reward_N.max() + margin_std * reward_N.std(correction=0))


@torch.no_grad()
def logprob_floors(
    own_M: Tensor,
    own_logprob_M: Tensor,
    own_reward_M: Tensor,
    lambda_: float,
    reward_bound: float | Tensor,
    *,
    tau: float = TAU,
) -> Tensor:
    """Return the log-probability below which a pair can be dropped: float64 [B, M], best_i − τ − R/λ; −inf for own pairs.

    `own_logprob_M`, `own_reward_M`: ℓ and r of every response with its own prompt, complete. `lambda_`: the smallest λ that is to
    be served, in units of the reward as given (a z-scored λ times the rewards' standard deviation). `reward_bound`: R, or one
    per pair as far as [B, M] broadcasts (own_reward_M itself, where rewards are reused). Every prompt has a response.
    """
    if not lambda_ > 0:
        raise ValueError(f"lambda is {lambda_}, but a temperature must be above 0")
    own_reward_M, num_prompts = own_reward_M.double(), int(own_M.max()) + 1
    best_B = _largest(own_logprob_M.double() + own_reward_M / lambda_, own_M, num_prompts)
    # R must not lie below the prompt's own rewards, or a larger λ could bring the pair back.
    most_BM = torch.as_tensor(reward_bound, dtype=torch.float64, device=own_M.device).expand(num_prompts, len(own_M))
    most_BM = torch.maximum(most_BM, _largest(own_reward_M, own_M, num_prompts)[:, None])
    floor_BM = best_B[:, None] - tau - most_BM / lambda_
    return floor_BM.masked_fill(own_M == torch.arange(num_prompts, device=own_M.device)[:, None], -math.inf)


def droppable(partial_BM: Tensor, floor_BM: Tensor) -> Tensor:
    """Return which pairs may be dropped, given their log-probability so far (0 before the first token): bool, never an own
    pair.
    """
    return partial_BM < floor_BM


def _largest(value_M: Tensor, own_M: Tensor, num_prompts: int) -> Tensor:
    return value_M.new_full((num_prompts,), -math.inf).scatter_reduce(0, own_M, value_M, "amax")
