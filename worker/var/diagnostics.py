"""What a batch's weights look like: every quantity that tells healthy weights from degenerate ones (docs/method.md).

Shapes: B prompts, M responses. Keys are those of the studio's catalogue of metrics. A quantity that a batch doesn't have (no
preference labels, no spread to correlate) is left out rather than made up.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.var.candidates import Candidates, WeightChoices, allowed_pairs, exponents, own_rewards
from worker.var.weights import effective_sample_size, partition_shares

ABOVE, BELOW = 0.99, 0.01
CHOSEN, REJECTED = 1, -1


@torch.no_grad()
def describe_weights(
    candidates: Candidates,
    weight_M: Tensor,
    choices: WeightChoices,
    preference_M: Tensor | None = None,
    *,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
) -> dict[str, float]:
    """All `weight/…` and `reward/…` metrics of one batch, finite floats.

    `weight_M` as compute_weights made it; `preference_M` int: 1 chosen, −1 rejected, anything else neither.
    Statistics of w are over the responses that enter the loss; those of Z(x) over every prompt of the batch.
    """
    shares_BM = partition_shares(candidates, choices, reward_mean=reward_mean, reward_std=reward_std)
    exponent_BM = exponents(candidates, choices, reward_mean, reward_std)
    entering_M = torch.ones_like(weight_M, dtype=torch.bool) if candidates.enters_M is None else candidates.enters_M
    reward_M = own_rewards(candidates)
    return {
        **_weight_statistics(weight_M[entering_M]),
        **_correlations(weight_M[entering_M], candidates.num_tokens_M[entering_M], reward_M[entering_M]),
        **_partition_statistics(candidates, shares_BM, allowed_pairs(candidates, choices)),
        **_preference_statistics(weight_M, reward_M, preference_M),
        "weight/largest_exponent": float(exponent_BM.masked_fill(exponent_BM.isinf(), 0.0).abs().max()),
        "reward/mean": float(reward_M.mean()),
        "reward/std": float(reward_M.std(correction=0)),
    }


def histogram(weight_M: Tensor, edges: Sequence[float]) -> list[int]:
    """How many weights lie in each bin: len(edges) + 1 counts; bin k holds edges[k−1] ≤ w < edges[k], the outer two are open."""
    counts = [0] * (len(edges) + 1)
    for weight in weight_M.tolist():
        counts[bisect_right(edges, weight)] += 1
    return counts


def average_ranks(values_N: Tensor) -> Tensor:
    """Ranks from 1, float64 [N]; equal values share the mean of their ranks."""
    _, inverse_N, counts_U = values_N.double().unique(return_inverse=True, return_counts=True)
    last_U = counts_U.cumsum(0).double()
    return (last_U - (counts_U - 1) / 2)[inverse_N]


def spearman(left_N: Tensor, right_N: Tensor) -> float | None:
    """Spearman's ρ: Pearson's correlation of the average ranks; None when either side has no spread."""
    left_N, right_N = average_ranks(left_N), average_ranks(right_N)
    left_N, right_N = left_N - left_N.mean(), right_N - right_N.mean()
    norm = float(left_N.square().sum() * right_N.square().sum()) ** 0.5
    return float((left_N * right_N).sum()) / norm if norm > 0 else None


def _weight_statistics(weight_M: Tensor) -> dict[str, float]:
    if not len(weight_M):
        return {}
    weight_M = weight_M.double()
    p10, p50, p90 = torch.quantile(weight_M, weight_M.new_tensor([0.1, 0.5, 0.9])).tolist()
    ess = effective_sample_size(weight_M)
    return {
        "weight/mean": float(weight_M.mean()),
        "weight/std": float(weight_M.std(correction=0)),
        "weight/min": float(weight_M.min()),
        "weight/max": float(weight_M.max()),
        "weight/p10": p10,
        "weight/p50": p50,
        "weight/p90": p90,
        "weight/ess": ess,
        "weight/ess_share": ess / len(weight_M),
    }


def _correlations(weight_M: Tensor, num_tokens_M: Tensor, reward_M: Tensor) -> dict[str, float]:
    found = {
        "weight/spearman_length": spearman(weight_M, num_tokens_M),
        "weight/spearman_reward": spearman(weight_M, reward_M),
    }
    return {key: rho for key, rho in found.items() if rho is not None}


def _partition_statistics(candidates: Candidates, shares_BM: Tensor, allowed_BM: Tensor) -> dict[str, float]:
    """Of q_ij, candidate j's share of Z(x_i): H(q_i)/log M_i (0 for a lone one), mass of other prompts' responses, winner."""
    num_prompts = len(shares_BM)
    num_allowed_B = allowed_BM.sum(dim=1)
    entropy_B = torch.special.entr(shares_BM).sum(dim=1) / num_allowed_B.clamp(min=2).double().log()
    own_BM = candidates.own_M == torch.arange(num_prompts, device=shares_BM.device)[:, None]
    own_share_M = shares_BM.gather(0, candidates.own_M[None])[0]
    lengths_BM = candidates.num_tokens_M.double().expand(allowed_BM.shape)
    shortest_B = lengths_BM.masked_fill(~allowed_BM, math.inf).amin(dim=1)
    longest_B = lengths_BM.masked_fill(~allowed_BM, -math.inf).amax(dim=1)
    winner_B = lengths_BM.gather(1, shares_BM.argmax(dim=1)[:, None])[:, 0]
    wins_B = (winner_B == shortest_B) & (shortest_B < longest_B)  # with equal lengths nobody is the shortest
    return {
        "weight/entropy": float(entropy_B.mean()),
        "weight/share_above": float((own_share_M > ABOVE).double().mean()),
        "weight/share_below": float((own_share_M < BELOW).double().mean()),
        "weight/off_diagonal": float((shares_BM * ~own_BM).sum(dim=1).mean()),
        "weight/shortest_share": float(wins_B.double().mean()),
    }


def _preference_statistics(weight_M: Tensor, reward_M: Tensor, preference_M: Tensor | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if preference_M is None:
        return found
    total = float(weight_M.double().sum())
    for name, label in (("chosen", CHOSEN), ("rejected", REJECTED)):
        labelled_M = preference_M == label
        if labelled_M.any():
            found[f"reward/{name}"] = float(reward_M[labelled_M].mean())
            if total > 0:
                found[f"weight/share_{name}"] = float(weight_M[labelled_M].double().sum()) / total
    if "reward/chosen" in found and "reward/rejected" in found:
        found["reward/gap"] = found["reward/chosen"] - found["reward/rejected"]
    return found
