"""How much of a weight is chance of who meets in a batch: the same responses weighed in several made-up batch plans.

It can be told where a response's weight, before its batch is rescaled, knows nothing of other prompts: the form `reward`, and
Z(x) over the prompt's own. Elsewhere other plans would need scores that nobody has asked for.
Legend: N responses of all batches in the plan's order, P prompts, G batches, R plans.
"""

import torch
from torch import Tensor

from worker.preview.batches import Grouping
from worker.stages.seeds import derive_seed

NUM_PLANS = 8


def measure_partners(log_weight_N: Tensor, grouping: Grouping, *, rescaled: bool) -> float | None:
    """Return the variance of one response's weights between plans, on average, as a share of that of all weights.

    `log_weight_N`: before any rescaling, NaN outside the loss; `rescaled`: each batch to mean 1, without which
    plans don't differ.
    None: all weights are the same.
    """
    counted_N = ~log_weight_N.isnan()
    if not rescaled:
        return 0.0 if float(log_weight_N[counted_N].std(correction=0)) > 0 else None
    log_weight_C, prompt_C = log_weight_N[counted_N].double(), grouping.prompt_N[counted_N]
    num_prompts, num_batches = len(grouping.first_P) - 1, len(grouping.num_prompts_G)
    batch_P = torch.arange(num_batches).repeat_interleave(grouping.num_prompts_G)
    plans = []
    for number in range(NUM_PLANS):
        chance = torch.Generator().manual_seed(derive_seed(0, "partners", number))
        batch_C = batch_P[torch.randperm(num_prompts, generator=chance)][prompt_C]
        plans.append(_rescale(log_weight_C, batch_C, num_batches))
    weight_CR = torch.stack(plans, dim=1)
    total = float(weight_CR.var(correction=0))
    return float(weight_CR.var(dim=1, correction=1).mean()) / total if total > 0 else None


def _rescale(log_weight_C: Tensor, batch_C: Tensor, num_batches: int) -> Tensor:
    """Return the weights with mean 1 in each batch."""
    largest_G = log_weight_C.new_full((num_batches,), -torch.inf).scatter_reduce(0, batch_C, log_weight_C, "amax")
    weight_C = (log_weight_C - largest_G[batch_C]).exp()
    sum_G = weight_C.new_zeros(num_batches).index_add(0, batch_C, weight_C)
    count_G = torch.bincount(batch_C, minlength=num_batches).double()
    return weight_C * (count_G / sum_G)[batch_C]
