"""Answers sampled from a policy: batched, seeded, independent of the training's random numbers and of the batching.

Each prompt has its own row of uniform numbers, so the same prompt gets the same answer from the same weights whatever
stands beside it; reference and policy share the numbers, which takes noise out of their comparison.
Legend: R rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from worker.models.adapter import LanguageModel
from worker.models.padding import group_rows, token_budget

LEAST_ROOM = 64  # tokens


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. temperature 0 is greedy decoding. An answer ends in `end_ids`, or as `is_ended` says."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    end_ids: frozenset[int]
    is_ended: Callable[[Sequence[int]], bool] | None = None  # for answers that end in several tokens

    def ends(self, ids: Sequence[int]) -> bool:
        return ids[-1] in self.end_ids or (self.is_ended is not None and self.is_ended(ids))


@torch.inference_mode()
def generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], sampling: Sampling, check: Callable[[], None] = lambda: None,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Return answer ids for each prompt, with the end token when it was drawn; `check` is called at each token and may raise.

    `seeds`: of each prompt's own random numbers, which then depend neither on the others nor on how long answers may be.
    """
    uniform_RT = _draw_uniform(len(prompts), sampling, seeds)
    answers: list[list[int]] = [[] for _ in prompts]
    was_training = model.network.training
    model.network.eval()
    try:
        widths = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
        # A model that can't take left padding gets rows of equal length only.
        for chosen in group_rows(widths, token_budget(model.device, on_cpu=16_384), alike=not model.shares_prefix):
            for drawn in _write_group(model, [prompts[i] for i in chosen], uniform_RT[chosen], sampling, check):
                for row, token in drawn:
                    answers[chosen[row]].append(token)
    finally:
        model.network.train(was_training)
    return answers


@torch.inference_mode()
def stream(model: LanguageModel, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Yield the ids that `generate` gives for the prompt alone, each as soon as it is drawn; the network is in eval mode."""
    for [(_, token)] in _write_group(model, [prompt], _draw_uniform(1, sampling), sampling):
        yield token


def _draw_uniform(num_rows: int, sampling: Sampling, seeds: Sequence[int] | None = None) -> Tensor:
    sizes = [(num_rows, sampling.seed)] if seeds is None else [(1, seed) for seed in seeds]
    rows = [
        torch.rand(num, sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
        for num, seed in sizes
    ]
    return torch.cat(rows) if rows else torch.zeros(0, sampling.max_new_tokens, dtype=torch.float64)


def _write_group(
    model: LanguageModel, prompts: Sequence[Sequence[int]], uniform_RT: Tensor, sampling: Sampling,
    check: Callable[[], None] = lambda: None,
) -> Iterator[list[tuple[int, int]]]:  # fmt: skip
    """Yield, token by token, the rows that are still being written with what each has drawn."""
    width, device = max(len(prompt) for prompt in prompts), model.device
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    uniform_RT = uniform_RT.to(device)
    written: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    step = _Stepper(model, ids, mask)
    for t in range(sampling.max_new_tokens):
        check()
        drawn_R = _draw(step.logits(), uniform_RT[alive, t], sampling)
        drawn = list(zip(alive, drawn_R.tolist(), strict=True))
        for row, token in drawn:
            written[row].append(token)
        yield drawn
        keep = close_up([k for k, (row, _) in enumerate(drawn) if not sampling.ends(written[row])])
        if not keep:
            break
        alive = [alive[k] for k in keep]
        step.advance(drawn_R, torch.tensor(keep, device=device) if len(keep) < len(drawn) else None)


def close_up(kept: Sequence[int]) -> list[int]:
    """Return these rows, in rising order, so that as many as can stay where they are: gaps are filled from the end."""
    num = len(kept)
    staying, moving = {k for k in kept if k < num}, (k for k in reversed(kept) if k >= num)
    return [place if place in staying else next(moving) for place in range(num)]


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer in tensors that have room for tokens to come: `keys` and `values` are the part in use.

    A new token is written behind the others and a row that moves over one that has left, where DynamicLayer copies all of
    them at each token and each leave: as much as a small model computes. When the room is used up, it gets a quarter more.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        self.__dict__.update(vars(layer))
        self.room: list[Tensor] = [layer.keys, layer.values]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the next tokens of all rows; return everything in use."""
        num_rows, start = self.keys.shape[0], self.keys.shape[2]
        stop = start + key_states.shape[2]
        if stop > self.room[0].shape[2]:
            self.room = [self._make_room(used, stop + max(LEAST_ROOM, stop // 4)) for used in (self.keys, self.values)]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:num_rows, :, start:stop] = states
        self._use(num_rows, stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, no more than there are, in this order."""
        num, length = len(indices), self.keys.shape[2]
        moved = (indices != torch.arange(num, device=indices.device)).nonzero()[:, 0]
        for room in self.room:
            room[moved, :, :length] = room[indices[moved], :, :length]
        self._use(num, length)

    def _use(self, num_rows: int, length: int) -> None:
        self.keys, self.values = (room[:num_rows, :, :length] for room in self.room)

    @staticmethod
    def _make_room(used: Tensor, length: int) -> Tensor:
        room = used.new_empty(*used.shape[:2], length, used.shape[3])
        room[:, :, : used.shape[2]] = used
        return room


class _Stepper:
    """The rows still being written: feeds new tokens through the cache, or through everything where there is none.

    Rows that begin with the same prompt share its pass.
    """

    def __init__(self, model: LanguageModel, ids_RT: Tensor, mask_RT: Tensor) -> None:
        self.model, self.ids, self.mask = model, ids_RT, mask_RT
        self.cache: Any = None
        self.fresh = ids_RT

    def logits(self) -> Tensor:
        """Logits of the next token of each row, [R, V] float32."""
        if self.cache is None and self.model.shares_prefix:
            return self._begin()
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -self.fresh.shape[1] :]
        if self.model.shares_prefix:
            result = self.model.run(self.fresh, self.mask, positions, cache=self.cache, keep=True)
        else:
            result = self.model.run(self.ids, self.mask, positions)
        return self.model.head.logits(result.last_hidden_state[:, -1])

    def _begin(self) -> Tensor:
        """Encode each prompt once; every row gets its copy of the cache."""
        rows = [tuple(row) for row in torch.cat([self.mask, self.ids], dim=1).tolist()]
        firsts: dict[tuple[int, ...], int] = {}
        for row, key in enumerate(rows):
            firsts.setdefault(key, row)
        places = {key: place for place, key in enumerate(firsts)}
        first_P = torch.tensor(list(firsts.values()), device=self.ids.device)
        place_R = torch.tensor([places[key] for key in rows], device=self.ids.device)
        mask_PT = self.mask[first_P]
        positions_PT = (mask_PT.cumsum(1) - 1).clamp(min=0)
        result = self.model.run(self.ids[first_P], mask_PT, positions_PT, keep=True)
        self.cache = result.past_key_values
        if len(firsts) < len(rows):
            self.cache.batch_select_indices(place_R)
        layers = getattr(self.cache, "layers", [])
        layers[:] = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in layers]
        return self.model.head.logits(result.last_hidden_state[:, -1])[place_R]

    def advance(self, drawn_R: Tensor, keep: Tensor | None) -> None:
        """Append the drawn tokens; `keep` names the rows that go on, None all."""
        fresh = drawn_R[:, None]
        if keep is not None:
            fresh, self.ids, self.mask = fresh[keep], self.ids[keep], self.mask[keep]
            if self.cache is not None:
                self.cache.batch_select_indices(keep)
        self.mask = torch.cat([self.mask, torch.ones_like(fresh)], dim=1)
        if self.cache is not None:
            self.fresh = fresh
        else:
            self.ids = self.fresh = torch.cat([self.ids, fresh], dim=1)


def _draw(logits_RV: Tensor, uniform_R: Tensor, sampling: Sampling) -> Tensor:
    """One token a row by inverting the cumulative distribution at a uniform number, most likely tokens first, equals by id."""
    if sampling.temperature == 0:
        return logits_RV.argmax(dim=-1)
    prob_RV = torch.softmax(logits_RV / sampling.temperature, dim=-1)
    ordered_RV = _order(prob_RV)
    cumulative_RV = ordered_RV.double().cumsum(dim=-1)
    if sampling.top_p < 1:
        kept_RV = cumulative_RV - ordered_RV < sampling.top_p  # the token that crosses top_p stays in
        cumulative_RV = torch.where(kept_RV, ordered_RV, 0.0).double().cumsum(dim=-1)
    target_R1 = (uniform_R * cumulative_RV[:, -1])[:, None]
    rank_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True).clamp(max=logits_RV.shape[-1] - 1)
    drawn_R1 = ordered_RV.gather(1, rank_R1)
    equal_RV = prob_RV == drawn_R1
    place_R = rank_R1[:, 0] - (prob_RV > drawn_R1).sum(dim=-1)  # among the equals
    num_R = equal_RV.sum(dim=-1)
    return equal_RV.nonzero()[num_R.cumsum(0) - num_R + place_R, 1]


def _order(prob_RV: Tensor) -> Tensor:
    """Return each row's probabilities in falling order; on a CPU by numpy, which sorts plain numbers many times faster."""
    if prob_RV.device.type != "cpu":
        return prob_RV.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(prob_RV.numpy(), axis=-1)[:, ::-1].copy())
