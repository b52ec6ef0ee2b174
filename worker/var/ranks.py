"""Rank correlation, of one series or of many at once."""

import torch
from torch import Tensor


def average_ranks(values: Tensor, counted: Tensor | None = None, *, tolerance: float = 0.0) -> Tensor:
    """Ranks from 1 along the last dimension, float64; equal values share the mean of their ranks.

    `counted` bool: the values that are ranked, all by default; the others' numbers mean nothing. Finite values only. A value that
    is above the next smaller one by no more than `tolerance` of it counts as equal.
    """
    values = values.double() if counted is None else values.double().masked_fill(~counted, torch.inf)
    ordered, order = values.sort(dim=-1)
    place = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    lower = ordered[..., :-1]
    steps = ordered[..., 1:] - lower > tolerance * lower.abs()
    ends = torch.ones_like(values[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([ends, steps], dim=-1), place, 0).cummax(dim=-1).values
    last = torch.where(torch.cat([steps, ends], dim=-1), place, values.shape[-1]).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.empty_like(values).scatter(-1, order, (first + last).double() / 2 + 1)


def spearman_of_ranks(left: Tensor, right: Tensor, counted: Tensor | None = None) -> Tensor:
    """Spearman's ρ along the last dimension from average ranks: Pearson's correlation of them; NaN without spread."""
    counted = torch.ones_like(left, dtype=torch.bool) if counted is None else counted
    middle = (counted.sum(dim=-1, keepdim=True).double() + 1) / 2  # the mean of all ranks, tied or not
    left, right = (torch.where(counted, ranks - middle, 0.0) for ranks in (left, right))
    norm = (left.square().sum(dim=-1) * right.square().sum(dim=-1)).sqrt()
    return (left * right).sum(dim=-1) / torch.where(norm > 0, norm, torch.nan)
