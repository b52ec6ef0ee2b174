"""Many continuations of few beginnings: each beginning is encoded once, its continuations attend to the cached copy.

The token count falls from Σ (|x| + |y|) over all pairs to Σ |x| over the beginnings plus Σ |y| (method.md, section 6.2).
Legend: G beginnings of one group, P their padded length, R rows (continuations), T their padded length, D hidden size.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from worker.models.adapter import Body
from worker.models.padding import group_rows, token_budget

Ids = Sequence[int]


@dataclass(frozen=True)
class Continued:
    """Hidden states of some continuations: row r is continuation `rows[r]`, its real tokens come first."""

    rows: list[int]
    hidden_RTD: Tensor
    length_R: Tensor

    def last(self, num_R: Tensor) -> Tensor:
        """Mark the last `num_R` real tokens of each row: bool [R, T]."""
        place_T = torch.arange(self.hidden_RTD.shape[1], device=num_R.device)
        return (place_T < self.length_R[:, None]) & (place_T >= (self.length_R - num_R)[:, None])


def run_continuations(
    body: Body, beginnings: Sequence[Ids], continuations: Sequence[tuple[int, Ids]], check: Callable[[], None] = lambda: None
) -> Iterator[Continued]:
    """Hidden states of each continuation (index of its beginning, ids) behind its beginning, in groups of like length.

    A beginning may be empty. `check` is called between forward passes and may raise.
    """
    budget = token_budget(body.device)
    rows_of: dict[int, list[int]] = {}
    for row, (beginning, _) in enumerate(continuations):
        rows_of.setdefault(beginning, []).append(row)
    widest = {b: max(len(continuations[row][1]) for row in rows) for b, rows in rows_of.items()}
    order = sorted(rows_of, key=lambda b: (-len(beginnings[b]), -widest[b]))
    # Beginnings that are encoded together: their rows can then be sorted by length, so that little of them is padding.
    costs = [len(beginnings[b]) or len(rows_of[b]) * widest[b] for b in order]
    for group in chunk(order, costs, [len(beginnings[b]) == 0 for b in order], budget):
        yield from _run_group(body, beginnings, continuations, group, rows_of, budget, check)


def run_in_chunks(
    body: Body,
    beginnings: Sequence[Ids],
    continuations: Sequence[tuple[int, Ids]],
    size: int,
    goes_on: Callable[[Continued], Tensor],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Continuations behind cached beginnings as above, `size` tokens of each at a time; what may be left off costs no more.

    `goes_on(part)` gets the hidden states of the next tokens of some rows and answers for each whether it is still needed:
    bool [R]. Rows that are through are left out by themselves. Beginnings must not be empty.
    """
    budget = token_budget(body.device)
    rows_of: dict[int, list[int]] = {}
    for row, (beginning, _) in enumerate(continuations):
        rows_of.setdefault(beginning, []).append(row)
    order = sorted(rows_of, key=lambda b: -len(beginnings[b]))
    for group in chunk(order, [len(rows_of[b]) * size for b in order], [False] * len(order), budget):
        check()
        cache, mask_GP = _encode(body, [beginnings[b] for b in group])
        rows = [row for b in group for row in rows_of[b]]
        place_R = torch.tensor([g for g, b in enumerate(group) for _ in rows_of[b]], device=body.device)
        cache.batch_select_indices(place_R)
        _run_down(body, [(row, continuations[row][1]) for row in rows], cache, mask_GP[place_R], size, goes_on, check)


def _run_down(
    body: Body,
    rows: list[tuple[int, Ids]],
    cache: Any,
    mask_RS: Tensor,
    size: int,
    goes_on: Callable[[Continued], Tensor],
    check: Callable[[], None],
) -> None:
    start = 0
    while rows:
        check()
        ids_RT, length_R, mask_RS, positions_RT = _pad(body, [ids[start : start + size] for _, ids in rows], mask_RS)
        hidden_RTD = body.run(ids_RT, mask_RS, positions_RT, cache=cache).last_hidden_state
        start += ids_RT.shape[1]
        needed = goes_on(Continued([row for row, _ in rows], hidden_RTD, length_R)).tolist()
        kept = [k for k, (_, ids) in enumerate(rows) if needed[k] and len(ids) > start]
        if len(kept) < len(rows) and kept:  # only rows that filled the chunk go on, so nothing in the cache is padding
            index = torch.tensor(kept, device=body.device)
            cache.batch_select_indices(index)
            mask_RS = mask_RS[index]
        rows = [rows[k] for k in kept]


def _run_group(
    body: Body,
    beginnings: Sequence[Ids],
    continuations: Sequence[tuple[int, Ids]],
    group: list[int],
    rows_of: dict[int, list[int]],
    budget: int,
    check: Callable[[], None],
) -> Iterator[Continued]:
    check()
    cache, mask_GP = _encode(body, [beginnings[b] for b in group])
    place = {b: g for g, b in enumerate(group)}
    rows = [row for b in group for row in rows_of[b]]
    # A cached token costs a row less time than a token of its own, but as much memory, which is what counts on a GPU.
    cached = mask_GP.shape[1] if body.device.type == "cuda" else mask_GP.shape[1] // 4
    widths = [cached + len(continuations[row][1]) for row in rows]
    for places in group_rows(widths, budget):
        check()
        chosen = [rows[k] for k in places]
        own_cache = fork(cache)  # a pass writes into its cache
        place_R = torch.tensor([place[continuations[row][0]] for row in chosen], device=body.device)
        yield _continue(body, chosen, [continuations[row][1] for row in chosen], own_cache, mask_GP[place_R], place_R)


def fork(cache: Any) -> Any:
    """Return a cache that can be selected from and written to without changing this one; tensors that are only replaced are
    shared.
    """
    layers = getattr(cache, "layers", [None])
    if not all(type(layer) is DynamicLayer for layer in layers):
        return copy.deepcopy(cache)
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in layers]
    return forked


def _encode(body: Body, beginnings: Sequence[Ids]) -> tuple[Any, Tensor]:
    """Return the cache of left-padded beginnings (None when they are empty) and their mask [G, P]."""
    width = max(len(ids) for ids in beginnings)
    mask_GP = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in beginnings], device=body.device)
    if width == 0:
        return None, mask_GP.view(len(beginnings), 0).long()
    ids_GP = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in beginnings], device=body.device)
    result = body.run(ids_GP, mask_GP, (mask_GP.cumsum(1) - 1).clamp(min=0), keep=True)
    return result.past_key_values, mask_GP


def _continue(body: Body, rows: list[int], tails: list[Ids], cache: Any, prefix_RP: Tensor, place_R: Tensor) -> Continued:
    ids_RT, length_R, mask, positions_RT = _pad(body, tails, prefix_RP)
    if cache is not None:
        cache.batch_select_indices(place_R)
    hidden_RTD = body.run(ids_RT, mask, positions_RT, cache=cache).last_hidden_state
    return Continued(rows, hidden_RTD, length_R)


def _pad(body: Body, tails: Sequence[Ids], mask_RS: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded tails behind what `mask_RS` spans: ids [R, T], lengths [R], the whole mask [R, S + T], positions [R, T]."""
    length_R = torch.tensor([len(tail) for tail in tails], device=body.device)
    width = max(len(tail) for tail in tails)
    ids_RT = torch.tensor([[*tail, *[0] * (width - len(tail))] for tail in tails], device=body.device)
    place_T = torch.arange(width, device=body.device)
    positions_RT = mask_RS.sum(1, keepdim=True) + place_T
    return ids_RT, length_R, torch.cat([mask_RS, (place_T < length_R[:, None]).long()], dim=1), positions_RT


def chunk(items: Sequence[int], costs: Sequence[int], kinds: Sequence[bool], budget: int) -> list[list[int]]:
    """Consecutive items of one kind whose costs together stay in the budget; one item at least."""
    chunks: list[list[int]] = []
    total, last = 0, None
    for item, cost, kind in zip(items, costs, kinds, strict=True):
        if chunks and kind == last and total + cost <= budget:
            chunks[-1].append(item)
            total += cost
        else:
            chunks.append([item])
            total, last = cost, kind
    return chunks
