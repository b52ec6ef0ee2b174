"""The reward check: what the rewards know of the preference labels, beside what mere length knows.

Legend: N responses, each with its own prompt; P pairs of a chosen and a rejected response to one prompt.
"""

import torch
from torch import Tensor

from app.domain.findings import find_flat_rewards, find_inverted_rewards, wilson_interval
from app.domain.scoring import RewardCheck
from worker.stages.scoring.index import Index
from worker.var.rewards import fit_length

NUM_BINS = 20


def check_index(index: Index, reward_N: Tensor) -> RewardCheck:
    """Return the check of a kept scoring; `reward_N` are the rewards of own pairs, in the index's order."""
    return check_rewards(reward_N, index.preference_N, index.num_tokens_N, index.prompt_of_response)


def check_rewards(reward_N: Tensor, preference_N: Tensor, num_tokens_N: Tensor, prompt_N: Tensor) -> RewardCheck:
    """Pairwise accuracy on the labels with its 95 % Wilson interval, the same for "longer is better", spread and histogram.

    preference_N is 1, −1 or 0 (no label); equal prompt_N mark the responses of one example. Ties count for neither side.
    Missing rewards (NaN) are left out.
    """
    known_N = reward_N.isfinite()
    reward_N, preference_N = reward_N[known_N].double(), preference_N[known_N]
    num_tokens_N, prompt_N = num_tokens_N[known_N], prompt_N[known_N]
    chosen_P, rejected_P = pair_up(preference_N, prompt_N)
    better, ties = _count(reward_N[chosen_P] - reward_N[rejected_P])
    longer, length_ties = _count((num_tokens_N[chosen_P] - num_tokens_N[rejected_P]).double())
    num_pairs = len(chosen_P)
    low, high = wilson_interval(better, num_pairs - ties)
    length_low, length_high = wilson_interval(longer, num_pairs - length_ties)
    pairs = list(zip(reward_N[chosen_P].tolist(), reward_N[rejected_P].tolist(), strict=True))
    std = float(reward_N.std(correction=0)) if len(reward_N) else 0.0
    edges, counts = _histogram(reward_N)
    fit = fit_length(reward_N, num_tokens_N)
    controlled_N = fit.take_out(reward_N, num_tokens_N)
    kept, kept_ties = _count(controlled_N[chosen_P] - controlled_N[rejected_P])
    return RewardCheck(
        num_responses=len(reward_N),
        num_pairs=num_pairs,
        num_ties=ties,
        accuracy=_share(better, num_pairs - ties),
        low=low,
        high=high,
        length_accuracy=_share(longer, num_pairs - length_ties),
        length_low=length_low,
        length_high=length_high,
        length_slope=fit.slope,
        length_explains=fit.r_squared,
        controlled_accuracy=_share(kept, num_pairs - kept_ties),
        mean=_mean(reward_N) or 0.0,
        std=std,
        chosen_mean=_mean(reward_N[preference_N == 1]),
        rejected_mean=_mean(reward_N[preference_N == -1]),
        edges=edges,
        counts=counts,
        inverted=find_inverted_rewards(pairs) is not None,
        flat=find_flat_rewards(std if len(reward_N) > 1 else None, [chosen - rejected for chosen, rejected in pairs]) is not None,
    )


def pair_up(preference_N: Tensor, prompt_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return every chosen response with every rejected one of its prompt: indices chosen_P, rejected_P."""
    chosen, rejected = (preference_N == 1).nonzero()[:, 0], (preference_N == -1).nonzero()[:, 0]
    order = prompt_N[rejected].argsort(stable=True)
    rejected = rejected[order]
    prompts = prompt_N[rejected].contiguous()
    first = torch.searchsorted(prompts, prompt_N[chosen].contiguous())
    count = torch.searchsorted(prompts, prompt_N[chosen].contiguous(), right=True) - first
    start = count.cumsum(0) - count
    within = torch.arange(int(count.sum())) - start.repeat_interleave(count)
    return chosen.repeat_interleave(count), rejected[first.repeat_interleave(count) + within]


def measure_accuracy(gap_P: Tensor) -> float | None:
    """Return the share of pairs above 0 among those that are not ties; None where there are none."""
    better, ties = _count(gap_P)
    return _share(better, len(gap_P) - ties)


def _count(gap_P: Tensor) -> tuple[int, int]:
    """Pairs above 0, and ties."""
    return int((gap_P > 0).sum()), int((gap_P == 0).sum())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _histogram(reward_N: Tensor) -> tuple[list[float], list[int]]:
    """Equal steps from the smallest to the largest reward; one bin when they are all the same."""
    if not len(reward_N):
        return [], []
    low, high = float(reward_N.min()), float(reward_N.max())
    if low == high:
        return [low, high], [len(reward_N)]
    edges_E = torch.linspace(low, high, NUM_BINS + 1, dtype=torch.float64)
    bin_N = torch.bucketize(reward_N, edges_E[1:-1], right=True)
    return edges_E.tolist(), torch.bincount(bin_N, minlength=NUM_BINS).tolist()
