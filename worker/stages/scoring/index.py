"""Which response stands where in the batch plan: what a preview needs beside the scores, without texts or tokens.

scorings/index-<key>/index.safetensors  manifest.json
Kept per prompt where that says it all, and in the narrowest integers: about 9 bytes a response.
Legend: B batches of the plan, P prompts of all batches, N responses of all batches, both in the plan's order.
"""

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from worker.stages.examples import Encoded
from worker.stages.scoring.artifacts import ScoreManifest, keep, make_key, read_manifest

KIND, FILE = "index", "index.safetensors"
WIDTHS = (torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Index:
    """Flat tensors over all responses, batches in the plan's order.

    num_prompts_B  int32    prompts of each batch
    batch_N        int32    the response's batch
    own_N          int32    index of its prompt within the batch
    example_id_N   int64    its example
    response_N     int16    its number within the example
    preference_N   int8     1 chosen, -1 rejected, 0 neither
    num_tokens_N   int32
    data_reward_N  float32  rating or label, as the reward source says; NaN when rewards come from a model
    same_N         int64    equal for responses of one batch with the same text, and for no others
    same_ids_N     int64    the same for responses' tokens, as they are after truncation
    prompt_N       int64    the same for prompts
    """

    num_prompts_B: Tensor
    batch_N: Tensor
    own_N: Tensor
    example_id_N: Tensor
    response_N: Tensor
    preference_N: Tensor
    num_tokens_N: Tensor
    data_reward_N: Tensor
    same_N: Tensor
    same_ids_N: Tensor
    prompt_N: Tensor

    @cached_property
    def num_responses_B(self) -> Tensor:
        """M of each batch: int64 [B]."""
        return torch.bincount(self.batch_N.long(), minlength=len(self.num_prompts_B))

    @cached_property
    def prompt_of_response(self) -> Tensor:
        """The prompt of each response, counted over all batches: int64 [N]."""
        first_B = self.num_prompts_B.long().cumsum(0) - self.num_prompts_B
        return first_B[self.batch_N.long()] + self.own_N

    @cached_property
    def sizes(self) -> list[int]:
        """Prompt-response pairs of each batch, B·M: where matrices of scores that lie end to end begin and end."""
        sizes: list[int] = (self.num_prompts_B.long() * self.num_responses_B).tolist()
        return sizes

    @cached_property
    def places(self) -> Tensor:
        """Where each response's own pair stands in matrices [B, M] that lie row by row, end to end: int64 [N]."""
        starts_B = torch.tensor([0, *self.sizes]).cumsum(0)[:-1]
        firsts_B = self.num_responses_B.cumsum(0) - self.num_responses_B
        batch_N = self.batch_N.long()
        column_N = torch.arange(len(batch_N)) - firsts_B[batch_N]
        return starts_B[batch_N] + self.own_N.long() * self.num_responses_B[batch_N] + column_N


def keep_index(folder: Path, batches: Sequence[Sequence[Encoded]], reward_source: str) -> ScoreManifest:
    """Write the index of the plan, unless it is there already."""
    tensors = _tabulate(batches, reward_source)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {len(tensor)}".encode())
        digest.update(tensor.numpy().tobytes())
    key = make_key(KIND, {"content": digest.hexdigest()})
    kept = read_manifest(folder, key, FILE)
    if kept is not None:
        return kept
    num_pairs = sum(len(batch) * sum(len(example.responses) for example in batch) for batch in batches)
    manifest = ScoreManifest(key, KIND, {}, extent="own", num_batches=len(batches), num_pairs=num_pairs, num_scored=0)
    return keep(folder, manifest, FILE, tensors)


def read_index(folder: Path, key: str) -> Index:
    """Return the index kept as `key`; raises FileNotFoundError when it is gone or damaged."""
    if read_manifest(folder, key, FILE) is None:
        raise FileNotFoundError(f"The scoring's index {key} is gone or damaged. Make the scoring again.")
    kept = load_file(folder / key / FILE)
    num_prompts_B, num_responses_P = kept["num_prompts_B"].int(), kept["num_responses_P"].long()
    batch_P = torch.arange(len(num_prompts_B)).repeat_interleave(num_prompts_B.long())
    first_P = (num_prompts_B.long().cumsum(0) - num_prompts_B)[batch_P]
    own_P = torch.arange(len(batch_P)) - first_P
    preference_N = kept["preference_N"].to(torch.int8)
    return Index(
        num_prompts_B,
        batch_P.repeat_interleave(num_responses_P).int(),
        own_P.repeat_interleave(num_responses_P).int(),
        kept["example_id_P"].long().repeat_interleave(num_responses_P),
        kept["response_N"].to(torch.int16),
        preference_N,
        kept["num_tokens_N"].int(),
        kept.get("data_reward_N", torch.full(preference_N.shape, torch.nan)),
        _widen(kept["same_N"].long(), batch_P.repeat_interleave(num_responses_P)),
        _widen(kept["same_ids_N"].long(), batch_P.repeat_interleave(num_responses_P)),
        _widen(kept["prompt_P"].long(), batch_P).repeat_interleave(num_responses_P),
    )


def _tabulate(batches: Sequence[Sequence[Encoded]], reward_source: str) -> dict[str, Tensor]:
    examples = [example for batch in batches for example in batch]
    responses = [response for example in examples for response in example.responses]
    tensors = {
        "num_prompts_B": [len(batch) for batch in batches],
        "num_responses_P": [len(example.responses) for example in examples],
        "example_id_P": [example.example_id for example in examples],
        "prompt_P": [index for batch in batches for index in _first_places(example.turns for example in batch)],
        "response_N": [response.number for response in responses],
        "preference_N": [response.preference or 0 for response in responses],
        "num_tokens_N": [len(response.ids) for response in responses],
        "same_N": [index for batch in batches for index in _first_places(r.content for e in batch for r in e.responses)],
        "same_ids_N": [
            index for batch in batches for index in _first_places(r.ids.tobytes() for e in batch for r in e.responses)
        ],
    }
    narrow = {name: _narrow(torch.tensor(values, dtype=torch.int64)) for name, values in tensors.items()}
    if reward_source != "model":
        rewards = [r.rating if reward_source == "rating" else r.preference for r in responses]
        narrow["data_reward_N"] = torch.tensor([float(reward or 0.0) for reward in rewards])
    return narrow


def _first_places(values: Iterable[Hashable]) -> list[int]:
    """For each value, where it came first."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(value, index) for index, value in enumerate(values)]


def _narrow(values: Tensor) -> Tensor:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    kind = next(kind for kind in WIDTHS if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max)
    return values.to(kind)


def _widen(place_N: Tensor, batch_N: Tensor) -> Tensor:
    """Places within a batch, told apart from those of other batches."""
    count_B = torch.bincount(batch_N)
    return place_N + (count_B.cumsum(0) - count_B)[batch_N]
