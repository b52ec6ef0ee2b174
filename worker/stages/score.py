"""Stage 2: log π_ref(y_j|x_i) and r(x_i, y_j) for the fixed batches, once; every later run with the same content reuses them.

Legend: B prompts, M responses of a batch, R rows (prompt i with response j), T tokens, N response positions, D hidden size.
"""

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from app.domain.recipe import Recipe, WeightSettings
from worker.models.adapter import LanguageModel
from worker.models.reward import RewardModel
from worker.stages.batches import collate
from worker.stages.prepare import Encoded
from worker.var.logprobs import sequence_sums, token_logprobs

NAN = float("nan")


def own_prompts(batch: Sequence[Encoded]) -> Tensor:
    """own_M: the index of each response's prompt."""
    return torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])


def needs_cross_logprobs(weights: WeightSettings) -> bool:
    """Whether the weights read log π_ref of other prompts' responses."""
    return weights.partition_scope == "batch" and weights.weight_form != "reward"


def needs_cross_rewards(weights: WeightSettings) -> bool:
    return needs_cross_logprobs(weights) and weights.cross_reward == "score"


def hash_tokens(batches: Sequence[Sequence[Encoded]]) -> "hashlib._Hash":
    """Digest of every id in its place: covers data, tokenizer, template, lengths and batch plan at once."""
    digest = hashlib.sha256()
    for batch in batches:
        for example in batch:
            for ids in (example.prompt_ids, *(response.ids for response in example.responses)):
                digest.update(len(ids).to_bytes(4))
                digest.update(ids.tobytes())
            digest.update(b"|")
        digest.update(b"/")
    return digest


def hash_texts(batches: Sequence[Sequence[Encoded]]) -> "hashlib._Hash":
    """Digest of the texts in their places, which is what a reward model with its own tokenizer sees."""
    digest = hashlib.sha256()
    for batch in batches:
        for example in batch:
            for text in (*(part for turn in example.turns for part in turn), "", *(r.content for r in example.responses)):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(len(data).to_bytes(8))
                digest.update(data)
            digest.update(b"|")
        digest.update(b"/")
    return digest


def score_rewards(
    model: RewardModel, batch: Sequence[Encoded], *, cross: bool, check: Callable[[], None] = lambda: None
) -> Tensor:
    """r(x_i, y_j) as [B, M] float32; without `cross` only own pairs are asked, the rest is NaN."""
    own_M = own_prompts(batch)
    contents = [response.content for example in batch for response in example.responses]
    pairs = [(i, j) for i in range(len(batch)) for j in range(len(contents)) if cross or own_M[j] == i]
    reward_BM = torch.full((len(batch), len(contents)), NAN)
    index = torch.tensor(pairs)
    reward_BM[index[:, 0], index[:, 1]] = torch.tensor(model.score([(batch[i].turns, contents[j]) for i, j in pairs], check))
    return reward_BM


def read_rewards(recipe: Recipe, batch: Sequence[Encoded]) -> Tensor:
    """Rewards that stand in the data, as [B, M] float32 with NaN for other prompts' responses."""
    own_M = own_prompts(batch)
    column = [
        float((response.rating if recipe.reward.source == "rating" else response.preference) or 0.0)
        for example in batch
        for response in example.responses
    ]
    reward_BM = torch.full((len(batch), len(column)), NAN)
    reward_BM[own_M, torch.arange(len(column))] = torch.tensor(column)
    return reward_BM


@torch.inference_mode()
def score_logprobs(
    model: LanguageModel, batch: Sequence[Encoded], *, cross: bool, check: Callable[[], None] = lambda: None
) -> Tensor:
    """log π_ref(y_j|x_i), summed over tokens, as [B, M] float32 on the CPU; without `cross` only own pairs, the rest NaN."""
    responses = [response.ids for example in batch for response in example.responses]
    own = own_prompts(batch).tolist()
    pairs = [(i, j) for i in range(len(batch)) for j in range(len(responses)) if cross or own[j] == i]
    job = _Job(model, [example.prompt_ids for example in batch], responses, check)
    logprob_BM = torch.full((len(batch), len(responses)), NAN)
    run = _score_shared if model.shares_prefix else _score_plain
    for rows, logprob_R in run(job, pairs):
        index = torch.tensor(rows)
        logprob_BM[index[:, 0], index[:, 1]] = logprob_R.float().cpu()
    return logprob_BM


@dataclass(frozen=True)
class _Job:
    model: LanguageModel
    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    check: Callable[[], None]

    @property
    def budget(self) -> int:
        """Tokens of one pass, the cached ones included: what bounds the memory."""
        return 65_536 if self.model.device.type == "cuda" else 8_192

    def sums(self, hidden_ND: Tensor, target_N: Tensor, owner_N: Tensor, num_rows: int) -> Tensor:
        head = self.model.head
        logprob_N = token_logprobs(hidden_ND, head.weight_VD, target_N, **head.options())
        return sequence_sums(logprob_N, owner_N, num_rows)


Pair = tuple[int, int]
Scored = tuple[list[Pair], Tensor]


def _score_plain(job: _Job, pairs: list[Pair]) -> list[Scored]:
    """Every pair as a row of its own, for models whose state can't be shared."""
    order = sorted(pairs, key=lambda p: -len(job.prompts[p[0]]) - len(job.responses[p[1]]))
    results: list[Scored] = []
    for chosen in _chunk(order, lambda p: len(job.prompts[p[0]]) + len(job.responses[p[1]]), job.budget):
        job.check()
        rows = collate([(job.prompts[i], job.responses[j]) for i, j in chosen]).to(job.model.device)
        hidden = job.model.run(rows.ids_RT, rows.mask_RT).last_hidden_state.flatten(0, 1)
        results.append((chosen, job.sums(hidden[rows.place_N], rows.target_N, rows.owner_N, len(chosen))))
    return results


def _score_shared(job: _Job, pairs: list[Pair]) -> list[Scored]:
    """Prompts encoded once, in groups of like length; their continuations attend to the expanded cache."""
    by_prompt: dict[int, list[int]] = {}
    for i, j in pairs:
        by_prompt.setdefault(i, []).append(j)
    longest = max(len(response) for response in job.responses)
    order = sorted(by_prompt, key=lambda i: -len(job.prompts[i]))
    results: list[Scored] = []
    for group in _chunk(order, lambda i: len(by_prompt[i]) * (len(job.prompts[i]) + longest), job.budget, square=False):
        job.check()
        results += _score_group(job, group, by_prompt)
    return results


def _score_group(job: _Job, group: list[int], by_prompt: dict[int, list[int]]) -> list[Scored]:
    device = job.model.device
    width = max(len(job.prompts[i]) for i in group)
    ids = torch.tensor([[0] * (width - len(job.prompts[i])) + list(job.prompts[i]) for i in group], device=device)
    mask_GP = torch.tensor([[0] * (width - len(job.prompts[i])) + [1] * len(job.prompts[i]) for i in group], device=device)
    prefix = job.model.run(ids, mask_GP, (mask_GP.cumsum(1) - 1).clamp(min=0), keep=True)
    last_GD, cache = prefix.last_hidden_state[:, -1], prefix.past_key_values
    rows = [(g, j) for g, i in enumerate(group) for j in by_prompt[i]]
    rows.sort(key=lambda row: -len(job.responses[row[1]]))
    chunks = _chunk(rows, lambda row: width + len(job.responses[row[1]]), job.budget)
    results = []
    for number, chunk in enumerate(chunks):
        job.check()
        own_cache = cache if number == len(chunks) - 1 else copy.deepcopy(cache)
        results.append(([(group[g], j) for g, j in chunk], _continue(job, chunk, own_cache, mask_GP, last_GD)))
    return results


def _continue(job: _Job, chunk: list[Pair], cache: Any, mask_GP: Tensor, last_GD: Tensor) -> Tensor:
    """Log-prob sums of the chunk's responses behind their cached prompts: [R]."""
    device = job.model.device
    responses = [job.responses[j] for _, j in chunk]
    lengths = torch.tensor([len(response) for response in responses])
    width = int(lengths.max())
    target_RT = torch.tensor([[*response, *[0] * (width - len(response))] for response in responses], device=device)
    real_RT = (torch.arange(width) < lengths[:, None]).to(device)
    row_R = torch.tensor([g for g, _ in chunk], device=device)
    hidden_RTD = last_GD[row_R][:, None]  # predicts the first token; the rest comes from the tokens before
    if width > 1:
        cache.batch_select_indices(row_R)
        prompt_RP = mask_GP[row_R]
        positions = prompt_RP.sum(1, keepdim=True) + torch.arange(width - 1, device=device)
        mask = torch.cat([prompt_RP, real_RT[:, 1:].long()], dim=1)
        tail = job.model.run(target_RT[:, :-1], mask, positions, cache=cache).last_hidden_state
        hidden_RTD = torch.cat([hidden_RTD, tail], dim=1)
    owner_RT = torch.arange(len(chunk), device=device)[:, None].expand(-1, width)
    return job.sums(hidden_RTD[real_RT], target_RT[real_RT], owner_RT[real_RT], len(chunk))


def _chunk(items: list[Any], size: Callable[[Any], int], budget: int, *, square: bool = True) -> list[list[Any]]:
    """Consecutive items whose cost stays in the budget, one item at least; `square`: all pay the largest one's size."""
    chunks: list[list[Any]] = []
    total = largest = 0
    for item in items:
        cost = size(item)
        largest, total = max(largest, cost), total + cost
        if chunks and (largest * (len(chunks[-1]) + 1) if square else total) <= budget:
            chunks[-1].append(item)
        else:
            chunks.append([item])
            largest = total = cost
    return chunks
