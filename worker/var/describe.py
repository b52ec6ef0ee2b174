"""The numbers that tell healthy weights from degenerate ones, for many batches at once (definitions: docs/method.md).

Shapes: S batches, B rows, C candidates of a row, M responses (worker.var.candidates). Every value is float64 [S], NaN for a batch
that doesn't have it.
"""

import math

import torch
from torch import Tensor

from worker.var.draws import partition_errors
from worker.var.ranks import average_ranks, spearman_of_ranks
from worker.var.stacks import Weighed, effective_sample_sizes
from worker.var.terms import allowed, own_rewards

ABOVE, BELOW = 0.99, 0.01
CHOSEN, REJECTED = 1, -1
EQUAL = 2e-6  # weights that differ by less are ties: where shares come near 1, the rest is float32's rounding
QUANTILES = {"weight/p10": 0.1, "weight/p50": 0.5, "weight/p90": 0.9}


@torch.no_grad()
def describe_weighed(weighed: Weighed, weight_SM: Tensor, preference_SM: Tensor | None = None) -> dict[str, Tensor]:
    """Return the metrics of weights that are there already; `preference_SM` int: 1 chosen, −1 rejected, anything else neither."""
    stack = weighed.terms.stack
    weight_SM, reward_SM = weight_SM.double(), own_rewards(stack).double()
    present_SM = torch.ones_like(weight_SM, dtype=torch.bool) if stack.present_SM is None else stack.present_SM
    entering_SM = weighed.entering_SM
    weight_ranks_SM = average_ranks(weight_SM, entering_SM, tolerance=EQUAL)
    length_ranks_SM, reward_ranks_SM = (average_ranks(values, entering_SM) for values in (stack.num_tokens_SM, reward_SM))
    mean_S, std_S = _mean_and_std(reward_SM, present_SM)
    return {
        **_weight_statistics(weight_SM, entering_SM),
        "weight/spearman_length": spearman_of_ranks(weight_ranks_SM, length_ranks_SM, entering_SM),
        "weight/spearman_reward": spearman_of_ranks(weight_ranks_SM, reward_ranks_SM, entering_SM),
        **(_partition_statistics(weighed, present_SM) if weighed.terms.draw_reward_SBK is None else _draw_statistics(weighed)),
        **_preference_statistics(weight_SM, reward_SM, preference_SM, present_SM),
        "weight/largest_exponent": (weighed.terms.largest_reward_S / (weighed.terms.scale * weighed.lambda_)).double(),
        "reward/mean": mean_S,
        "reward/std": std_S,
    }


def _weight_statistics(weight_SM: Tensor, entering_SM: Tensor) -> dict[str, Tensor]:
    num_S = entering_SM.sum(dim=1).double()
    num_S = torch.where(num_S > 0, num_S, torch.nan)
    mean_S, std_S = _mean_and_std(weight_SM, entering_SM)
    ordered_SM = weight_SM.masked_fill(~entering_SM, math.inf).sort(dim=1).values
    found = {"weight/mean": mean_S, "weight/std": std_S, "weight/min": ordered_SM[:, 0] + 0 * num_S}
    for key, place_S in {"weight/max": num_S - 1, **{key: q * (num_S - 1) for key, q in QUANTILES.items()}}.items():
        low_S, high_S = (ordered_SM.gather(1, p.nan_to_num(0)[:, None].long())[:, 0] for p in (place_S.floor(), place_S.ceil()))
        found[key] = torch.lerp(low_S, high_S, place_S.frac())
    ess_S = effective_sample_sizes(weight_SM * entering_SM)
    return {**found, "weight/ess": ess_S + 0 * num_S, "weight/ess_share": ess_S / num_S}


def _partition_statistics(weighed: Weighed, present_SM: Tensor) -> dict[str, Tensor]:
    """Of q_ij, candidate j's share of Z(x_i): H(q_i)/log M_i (0 for a lone one), mass of other prompts' responses, winner."""
    stack, share_SBC = weighed.terms.stack, weighed.share_SBC
    allowed_SBC = allowed(stack, weighed.terms.choices)
    row_SB, num_rows_S = stack.row_SB, stack.row_SB.sum(dim=1).double()
    num_prompts_S = num_rows_S if stack.num_prompts_S is None else stack.num_prompts_S.double()
    num_present_S, own_share_SM = present_SM.sum(dim=1).double(), stack.gather_own(share_SBC)
    num_allowed_SB = share_SBC.shape[2] if allowed_SBC is None else allowed_SBC.sum(dim=2).clamp(min=2)
    entropy_SB = torch.special.entr(share_SBC).sum(dim=2) / torch.as_tensor(num_allowed_SB).clamp(min=2).double().log()
    length_SBC = stack.num_tokens_SBC.double().expand(share_SBC.shape)
    shortest_SB = (length_SBC if allowed_SBC is None else torch.where(allowed_SBC, length_SBC, math.inf)).amin(dim=2)
    longest_SB = (length_SBC if allowed_SBC is None else torch.where(allowed_SBC, length_SBC, -math.inf)).amax(dim=2)
    winner_SB = length_SBC.gather(2, share_SBC.argmax(dim=2, keepdim=True))[:, :, 0]
    wins_SB = (winner_SB == shortest_SB) & (shortest_SB < longest_SB)  # with equal lengths nobody is the shortest
    own_mass_S = torch.where(present_SM, own_share_SM, 0.0).sum(dim=1, dtype=torch.float64)
    return {
        "weight/entropy": torch.where(row_SB, entropy_SB, 0.0).sum(dim=1) / num_rows_S,
        "weight/share_above": ((own_share_SM > ABOVE) & present_SM).sum(dim=1) / num_present_S,
        "weight/share_below": ((own_share_SM < BELOW) & present_SM).sum(dim=1) / num_present_S,
        # Rows sum to 1, so what is not the own responses' is the others'.
        "weight/off_diagonal": (1 - own_mass_S / num_prompts_S).clamp(min=0),
        "weight/shortest_share": (wins_SB & row_SB).sum(dim=1) / num_rows_S,
    }


def _draw_statistics(weighed: Weighed) -> dict[str, Tensor]:
    """Return the root mean square, over the prompts, of the standard error of log Ẑ."""
    terms = weighed.terms
    assert terms.draw_reward_SBK is not None
    row_SB = terms.stack.row_SB
    error_SB = partition_errors(terms.draw_reward_SBK / (terms.scale * weighed.lambda_))
    square_S = torch.where(row_SB, error_SB.square(), 0.0).sum(dim=1) / row_SB.sum(dim=1)
    return {"weight/partition_error": square_S.sqrt()}


def _preference_statistics(
    weight_SM: Tensor, reward_SM: Tensor, preference_SM: Tensor | None, present_SM: Tensor
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if preference_SM is None:
        return found
    total_S = weight_SM.sum(dim=1)
    for name, label in (("chosen", CHOSEN), ("rejected", REJECTED)):
        labelled_SM = (preference_SM == label) & present_SM
        found[f"reward/{name}"], _ = _mean_and_std(reward_SM, labelled_SM)
        known_S = labelled_SM.any(dim=1) & (total_S > 0)
        share_S = torch.where(labelled_SM, weight_SM, 0.0).sum(dim=1) / torch.where(total_S > 0, total_S, 1.0)
        found[f"weight/share_{name}"] = torch.where(known_S, share_S, torch.nan)
    return {**found, "reward/gap": found["reward/chosen"] - found["reward/rejected"]}


def _mean_and_std(values_SM: Tensor, counted_SM: Tensor) -> tuple[Tensor, Tensor]:
    """Over the counted values of each batch; NaN when there are none."""
    num_S = counted_SM.sum(dim=1).double()
    num_S = torch.where(num_S > 0, num_S, torch.nan)
    mean_S = torch.where(counted_SM, values_SM, 0.0).sum(dim=1) / num_S
    from_mean_SM = torch.where(counted_SM, values_SM - mean_S[:, None], 0.0)
    return mean_S, (from_mean_SM.square().sum(dim=1) / num_S).sqrt()
