"""Which examples meet in which batch, in which order, and how their rows become tensors.

Everything here is a function of seeds and numbers alone, so a resumed attempt needs no replay.
Legend: R rows (a prompt with one response), T tokens, N response positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from worker.models.packed import Packing
from worker.stages.examples import Encoded
from worker.stages.seeds import derive_seed

PACKED_SHARE = 0.95  # rows are packed when that leaves at most this share of the padded rows' places


def permute(num: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def plan_batches(num_examples: int, batch_size: int, seed: int) -> list[list[int]]:
    """Return the fixed batches of a run: positions of examples, shuffled once.

    Sizes differ by at most one and never exceed `batch_size`: a short last batch would have an easy partition function
    (alone, a response has weight 1), so the shortage is spread over all batches instead.
    """
    order = permute(num_examples, derive_seed(seed, "plan"))
    num_batches = math.ceil(num_examples / batch_size)
    edges = [round(k * num_examples / num_batches) for k in range(num_batches + 1)]
    return [order[start:end] for start, end in pairwise(edges)]


def order_epoch(num_batches: int, seed: int, epoch: int) -> list[int]:
    """In which order the epoch visits the batches."""
    return permute(num_batches, derive_seed(seed, "epoch", epoch))


def count_steps(num_batches: int, epochs: float | None, steps: int | None) -> int:
    return steps if steps is not None else max(1, math.ceil((epochs or 1.0) * num_batches - 1e-9))


@dataclass(frozen=True)
class Rows:
    """Rows and where their response tokens are predicted: right-padded, or packed into one row that `packing` describes.

    ids_RT, mask_RT   inputs; the last response token is left out, as nothing is predicted from it
    place_N           index into the flattened [R·T] hidden states whose next token is target_N
    owner_N           row of each response position
    num_tokens        of all prompts and responses, a prompt counted with each of its responses
    """

    ids_RT: Tensor
    mask_RT: Tensor
    place_N: Tensor
    target_N: Tensor
    owner_N: Tensor
    num_tokens: int
    packing: Packing | None = None

    def to(self, device: torch.device) -> "Rows":
        if device.type == "cpu":
            return self
        ids, mask, place, target, owner = (
            tensor.pin_memory().to(device, non_blocking=True)
            for tensor in (self.ids_RT, self.mask_RT, self.place_N, self.target_N, self.owner_N)
        )
        return Rows(ids, mask, place, target, owner, self.num_tokens, self.packing)


def collate(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Rows:
    """Rows of (prompt ids, response ids); both non-empty."""
    width = max(len(prompt) + len(response) - 1 for prompt, response in pairs)
    ids_RT = torch.zeros(len(pairs), width, dtype=torch.long)
    mask_RT = torch.zeros(len(pairs), width, dtype=torch.long)
    places, targets, owners = [], [], []
    num_tokens = 0
    for row, (prompt, response) in enumerate(pairs):
        whole = torch.tensor([*prompt, *response])
        size = len(whole) - 1
        ids_RT[row, :size] = whole[:-1]
        mask_RT[row, :size] = 1
        places.append(torch.arange(len(prompt) - 1, size) + row * width)
        targets.append(whole[len(prompt) :])
        owners.append(torch.full((len(response),), row))
        num_tokens += len(whole)
    return Rows(ids_RT, mask_RT, torch.cat(places), torch.cat(targets), torch.cat(owners), num_tokens)


def collate_packed(families: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Rows:
    """One packed row of (prompt ids, ids of its responses); none empty. A prompt's last token predicts all first tokens."""
    packing = Packing([[len(prompt), *(len(response) - 1 for response in responses)] for prompt, responses in families])
    ids: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    offsets = iter(packing.offsets())
    num_tokens = num_rows = 0
    for prompt, responses in families:
        ids += prompt
        last = next(offsets) + len(prompt) - 1
        for response in responses:
            ids += response[:-1]
            start = next(offsets)
            places += [last, *range(start, start + len(response) - 1)]
            targets += response
            owners += [num_rows] * len(response)
            num_rows += 1
            num_tokens += len(prompt) + len(response)
    ids_RT = torch.tensor([ids])
    return Rows(
        ids_RT, torch.ones_like(ids_RT), torch.tensor(places), torch.tensor(targets), torch.tensor(owners), num_tokens, packing
    )


@dataclass(frozen=True)
class MicroBatch:
    """Some prompts of a batch with their responses; `response_R` says which response of the batch each row is.

    `share` 0: run because other processes run one at the same time, without a part in the loss.
    """

    rows: Rows
    response_R: Tensor
    share: float = 1.0


def split_batch(batch: Sequence[Encoded], enters_M: Tensor, micro_batch_size: int | None, *, packs: bool) -> list[MicroBatch]:
    """Micro-batches of whole prompts, of like length together; responses that stay out of the loss are left out.

    With `packs`, rows are packed where that spares enough: prompts with several responses, or lengths that differ.
    """
    enters = enters_M.tolist()
    firsts, total = [], 0
    for example in batch:
        firsts.append(total)
        total += len(example.responses)
    order = sorted(range(len(batch)), key=lambda i: (batch[i].longest, i))
    size = micro_batch_size or len(batch)
    micro_batches = []
    for start in range(0, len(order), size):
        chosen = {i: [k for k in range(len(batch[i].responses)) if enters[firsts[i] + k]] for i in order[start : start + size]}
        chosen = {i: sorted(ks, key=lambda k: batch[i].responses[k].overlap) for i, ks in chosen.items()}
        families = [family for i, ks in chosen.items() for family in batch[i].families(batch[i].responses[k] for k in ks)]
        if families:
            rows = _lay_out(families, packs)
            micro_batches.append(MicroBatch(rows, torch.tensor([firsts[i] + k for i, ks in chosen.items() for k in ks])))
    return micro_batches


def _lay_out(families: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], packs: bool) -> Rows:
    num_packed = sum(len(prompt) + sum(len(response) - 1 for response in responses) for prompt, responses in families)
    pairs = [(prompt, response) for prompt, responses in families for response in responses]
    num_padded = len(pairs) * max(len(prompt) + len(response) - 1 for prompt, response in pairs)
    return collate_packed(families) if packs and num_packed <= PACKED_SHARE * num_padded else collate(pairs)
