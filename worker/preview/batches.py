"""The batches of a preview, at any batch size, stacked from the flat scores of the plan.

Smaller batches split a scored one into consecutive groups of prompts, whose blocks of the matrices are scored. Larger ones
merge consecutive batches, just as a plan with the same seed would; nothing is scored between their parts, so they serve
only choices without cross terms.
Legend: G batches of the preview, S of them in one stack, P prompts and N responses of all batches in the plan's order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from app.domain.findings import FILLED_SHARE, tell_low_diversity
from worker.preview.scores import Noisy
from worker.stages.scoring.index import Index
from worker.stages.training.weights import choose_entering
from worker.var.candidates import StackedCandidates, WeightChoices
from worker.var.lambdas import STACKED_PLACES

LIKE_SIZES = 7 / 8  # batches of a stack have at least this share of the responses of its largest


@dataclass(frozen=True)
class Grouping:
    """Which consecutive prompts make each batch of the preview: `edge_G` int64 [G + 1], places among all prompts."""

    index: Index
    edge_G: Tensor

    @classmethod
    def whole(cls, index: Index) -> "Grouping":
        """Return the batches as they were scored."""
        return cls(index, torch.tensor([0, *index.num_prompts_B.tolist()]).cumsum(0))

    @cached_property
    def first_P(self) -> Tensor:
        """Each prompt's first response, and behind the last one the number of responses: int64 [P + 1]."""
        index = self.index
        starts_N = torch.ones_like(index.own_N, dtype=torch.bool)
        starts_N[1:] = (index.own_N[1:] != index.own_N[:-1]) | (index.batch_N[1:] != index.batch_N[:-1])
        return torch.cat([starts_N.nonzero()[:, 0], torch.tensor([len(starts_N)])])

    @cached_property
    def prompt_N(self) -> Tensor:
        """The prompt of each response, counted over all batches."""
        return torch.arange(len(self.first_P) - 1).repeat_interleave(self.first_P.diff())

    @cached_property
    def num_prompts_G(self) -> Tensor:
        return self.edge_G.diff()

    @cached_property
    def start_G(self) -> Tensor:
        """The first response of each batch."""
        return self.first_P[self.edge_G[:-1]]

    @cached_property
    def num_responses_G(self) -> Tensor:
        return self.first_P[self.edge_G].diff()

    @cached_property
    def batch_N(self) -> Tensor:
        """The batch of each response."""
        return torch.arange(len(self.num_prompts_G)).repeat_interleave(self.num_responses_G)

    def spread(self, most: int) -> Tensor:
        """At least `most` batches (all, if there are fewer), evenly spread: those that a run looks for its λ on."""
        every_G = torch.arange(len(self.num_prompts_G))
        return every_G[:: max(1, len(every_G) // most)]


def group(index: Index, batch_size: int, scored_size: int) -> Grouping:
    """Return the batches of `batch_size` prompts or one less, from a plan of `scored_size`."""
    if batch_size > scored_size:
        return Grouping(index, torch.tensor(_edges(int(index.num_prompts_B.sum()), batch_size)))
    edges, offset = [0], 0
    within = {num: _edges(num, batch_size)[1:] for num in set(index.num_prompts_B.tolist())}
    for num in index.num_prompts_B.tolist():
        edges += [offset + edge for edge in within[num]]
        offset += num
    return Grouping(index, torch.tensor(edges))


def _edges(num_prompts: int, batch_size: int) -> list[int]:
    """As plan_batches: sizes differ by at most one, so that no batch is left with an easy Z(x)."""
    num_batches = -(-num_prompts // batch_size)
    return [round(k * num_prompts / num_batches) for k in range(num_batches + 1)]


def find_repetition(grouping: Grouping) -> str | None:
    """Evidence of `low_diversity` in these batches."""
    batch_N = grouping.batch_N
    of_one_prompt_G = _largest_share(batch_N, grouping.index.prompt_N, grouping.num_responses_G, copies=False)
    copies_G = _largest_share(batch_N, grouping.index.same_N, grouping.num_responses_G, copies=True)
    worst_G = torch.maximum(of_one_prompt_G, copies_G)
    return tell_low_diversity(int((worst_G > FILLED_SHARE).sum()), len(worst_G), float(worst_G.max()))


def _largest_share(batch_N: Tensor, value_N: Tensor, num_G: Tensor, *, copies: bool) -> Tensor:
    """Of each batch, the share of its most frequent value; with `copies`, of all values that occur more than once."""
    key_N = batch_N * (int(value_N.max()) + 1) + value_N
    key_U, counts_U = key_N.unique(return_counts=True)
    counts_U = torch.where(counts_U > 1, counts_U, 0) if copies else counts_U
    batch_U = key_U // (int(value_N.max()) + 1)
    found_G = torch.zeros(len(num_G), dtype=torch.int64).scatter_reduce(0, batch_U, counts_U, "sum" if copies else "amax")
    return found_G.double() / num_G


@dataclass(frozen=True)
class BatchStack:
    """Some batches in one stack; `response_SM` says which response of the plan stands where (0 where one only fills up)."""

    stack: StackedCandidates
    response_SM: Tensor
    preference_SM: Tensor
    group_S: Tensor

    @property
    def present_SM(self) -> Tensor:
        present_SM = self.stack.present_SM
        return torch.ones_like(self.response_SM, dtype=torch.bool) if present_SM is None else present_SM


def layout_of(choices: WeightChoices) -> str:
    """Return which rows the choices need. whole: all responses in every row. own: a prompt's own ones. drawn: these with the
    draws that Z(x) is the mean over. one: one row for all prompts.
    """
    if choices.partition_scope != "batch":
        return "own" if choices.partition_scope == "prompt" else "drawn"
    return "one" if choices.weight_form == "reward" else "whole"


def stack_groups(
    noisy: Noisy, grouping: Grouping, layout: str, *, responses: str = "both", groups: Tensor | None = None
) -> Iterator[BatchStack]:
    """Yield the batches (or those of `groups`), in stacks that fit a processor's cache; largest first."""
    groups = torch.arange(len(grouping.num_prompts_G)) if groups is None else groups
    num_responses, num_prompts = grouping.num_responses_G[groups], grouping.num_prompts_G[groups]
    order = (num_responses * (num_prompts.max() + 1) + num_prompts).argsort(descending=True, stable=True)
    groups, sizes = groups[order], num_responses[order].tolist()
    widths = num_prompts[order].tolist() if layout == "whole" else [1] * len(sizes)
    start = 0
    for index, size in enumerate(sizes):
        places = (index - start + 1) * sizes[start] * max(widths[start], widths[index])
        if index > start and (places > STACKED_PLACES or size < LIKE_SIZES * sizes[start]):
            yield _stack(noisy, grouping, layout, groups[start:index], responses)
            start = index
    yield _stack(noisy, grouping, layout, groups[start:], responses)


def _stack(noisy: Noisy, grouping: Grouping, layout: str, group_S: Tensor, responses: str) -> BatchStack:
    num_S = grouping.num_responses_G[group_S]
    column_M = torch.arange(int(num_S.max()))
    present_SM = column_M < num_S[:, None]
    response_SM = torch.where(present_SM, grouping.start_G[group_S][:, None] + column_M, 0)
    preference_SM = torch.where(present_SM, noisy.preference_N[response_SM], 0)
    own_SM = torch.where(present_SM, grouping.prompt_N[response_SM] - grouping.edge_G[group_S][:, None], 0)
    full = bool(present_SM.all()) and grouping.num_prompts_G[group_S].unique().numel() == 1
    place = Place(noisy, grouping, group_S, response_SM, own_SM, present_SM, None if full else present_SM)
    chosen_SM = choose_entering(responses, preference_SM, place.draw_SM)
    enters_SM = place.mask_SM if chosen_SM is None else present_SM & chosen_SM
    stack = {"whole": _whole_rows, "own": _own_rows, "drawn": _drawn_rows, "one": _one_row}[layout](place, enters_SM)
    return BatchStack(stack, response_SM, preference_SM, group_S)


@dataclass(frozen=True)
class Place:
    """Where the responses of some batches stand; `mask_SM` is `present_SM`, or None when nothing only fills up."""

    noisy: Noisy
    grouping: Grouping
    group_S: Tensor
    response_SM: Tensor
    own_SM: Tensor
    present_SM: Tensor
    mask_SM: Tensor | None

    @property
    def num_tokens_SM(self) -> Tensor:
        return torch.where(self.present_SM, self.noisy.kept.index.num_tokens_N[self.response_SM].long(), 0)

    @property
    def draw_SM(self) -> Tensor:
        """Which draw of its prompt each response is; −1: none."""
        number_SM = self.noisy.kept.index.response_N[self.response_SM].long()
        return torch.where(self.present_SM, -1 - number_SM, -1).clamp(min=-1)

    @property
    def own_reward_SM(self) -> Tensor:
        return torch.where(self.present_SM, self.noisy.own_reward_N[self.response_SM], 0.0)


def _whole_rows(place: Place, enters_SM: Tensor | None) -> StackedCandidates:
    """Rows of all responses of the batch, from the blocks of the scored matrices."""
    kept, grouping = place.noisy.kept, place.grouping
    index, start_S = kept.index, grouping.start_G[place.group_S]
    num_prompts_S = grouping.num_prompts_G[place.group_S]
    batch_S, row_B1 = index.batch_N[start_S].long(), torch.arange(int(num_prompts_S.max()))[:, None]
    stride_S11 = index.num_responses_B[batch_S][:, None, None]
    # Own pair of the first response: the block's corner when its prompt is the first of the group, as it is.
    entry_SBM = index.places[start_S][:, None, None] + row_B1 * stride_S11 + torch.arange(place.own_SM.shape[1])
    there_SBM = None
    if place.mask_SM is not None:
        there_SBM = place.present_SM[:, None] & (row_B1 < num_prompts_S[:, None, None])
        entry_SBM = torch.where(there_SBM, entry_SBM, 0)

    def fill(value_SBM: Tensor) -> Tensor:
        return value_SBM if there_SBM is None else torch.where(there_SBM, value_SBM, 0.0)

    if kept.rewards is not None and kept.rewards.cross and not place.noisy.treatment.per_prompt:
        prompt_SB = grouping.first_P[
            (grouping.edge_G[place.group_S][:, None] + row_B1[:, 0]).clamp(max=len(grouping.first_P) - 2)
        ]
        example_SM, response_SM = index.example_id_N[place.response_SM], index.response_N[place.response_SM].long()
        prompt_SB1 = index.example_id_N[prompt_SB][:, :, None]
        clean_SBM = kept.rewards.raw[entry_SBM]
        reward_SBM = place.noisy.perturb(
            clean_SBM, prompt_SB1, example_SM[:, None], response_SM[:, None], place.num_tokens_SM[:, None]
        )
    else:  # nobody was asked about other prompts' responses
        reward_SBM = torch.where(place.own_SM[:, None] == row_B1, place.own_reward_SM[:, None], torch.nan)
    return StackedCandidates(
        place.own_SM, fill(kept.logprob[entry_SBM]), place.num_tokens_SM, fill(reward_SBM), enters_SM, place.mask_SM
    )


def _own_rows(place: Place, enters_SM: Tensor | None) -> StackedCandidates:
    """Rows of a prompt's own responses alone."""
    grouping, noisy = place.grouping, place.noisy
    edge_S1 = grouping.edge_G[place.group_S][:, None]
    num_prompts_S1 = grouping.num_prompts_G[place.group_S][:, None]
    row_B = torch.arange(int(num_prompts_S1.max()))
    first_SB = grouping.first_P[(edge_S1 + row_B).clamp(max=len(grouping.first_P) - 2)]
    num_SB = torch.where(
        row_B < num_prompts_S1, grouping.first_P.diff()[(edge_S1 + row_B).clamp(max=len(grouping.first_P) - 2)], 0
    )
    column_K = torch.arange(int(num_SB.max()))
    there_SBK = column_K < num_SB[:, :, None]
    response_SBK = torch.where(there_SBK, first_SB[:, :, None] + column_K, 0)
    candidate_SBK = torch.where(there_SBK, response_SBK - grouping.start_G[place.group_S][:, None, None], -1)
    logprob_SBK, reward_SBK = (
        torch.where(there_SBK, value_N[response_SBK], 0.0) for value_N in (noisy.kept.own_logprob_N, noisy.own_reward_N)
    )
    return StackedCandidates(
        place.own_SM, logprob_SBK, place.num_tokens_SM, reward_SBK, enters_SM, place.mask_SM, candidate_SBC=candidate_SBK
    )


def _drawn_rows(place: Place, enters_SM: Tensor | None) -> StackedCandidates:
    """Rows of a prompt's own responses, and beside them the rewards of its draws, which stand behind the data's."""
    grouping, num_draws = place.grouping, place.noisy.kept.num_draws
    edge_S1 = grouping.edge_G[place.group_S][:, None]
    num_prompts_S1 = grouping.num_prompts_G[place.group_S][:, None]
    row_B = torch.arange(int(num_prompts_S1.max()))
    end_SB = grouping.first_P[1:][(edge_S1 + row_B).clamp(max=len(grouping.first_P) - 2)]
    reward_SBK = place.noisy.own_reward_N[end_SB[:, :, None] - num_draws + torch.arange(num_draws)]
    draw_reward_SBK = torch.where((row_B < num_prompts_S1)[:, :, None], reward_SBK, 0.0)
    return replace(_own_rows(place, enters_SM), draw_reward_SBK=draw_reward_SBK, draw_SM=place.draw_SM)


def _one_row(place: Place, enters_SM: Tensor | None) -> StackedCandidates:
    """One row for all prompts: without π_ref and cross rewards they are all alike."""
    reward_S1M = place.own_reward_SM[:, None]
    num_prompts_S = place.grouping.num_prompts_G[place.group_S]
    own_SM, nothing_S1M = torch.zeros_like(place.own_SM), torch.zeros_like(reward_S1M)
    return StackedCandidates(
        own_SM, nothing_S1M, place.num_tokens_SM, reward_S1M, enters_SM, place.mask_SM, num_prompts_S=num_prompts_S
    )
