"""Which examples are held out of training, and which of those are the test set.

A side is drawn by keys that a seed makes of the conversations themselves: data sets that differ in a few examples, or are read
by different tokenizers, hold out the same conversations but for a few at the edge.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from app.domain.recipe import SplitRule
from worker.models.template import ChatTurn


class Placed(Protocol):
    """An example, as far as its side is concerned."""

    @property
    def turns(self) -> tuple[ChatTurn, ...]: ...

    @property
    def conversation(self) -> int: ...


Example = TypeVar("Example", bound=Placed)


def split(
    examples: Sequence[Example], share: float, seed: int, rule: SplitRule = "conversation"
) -> tuple[list[Example], list[Example]]:
    """Return what stays and what is set apart: a share of the examples, by the recipe's rule."""
    return (split_by_conversation if rule == "conversation" else split_by_prompt)(examples, share, seed)


def split_by_conversation(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return both sides; a conversation is wholly on one, and one at least stays.

    Not more is set apart than `share` asks for, rounded up, so what makes up more stays; only where nothing else is there the
    smallest conversation is set apart all the same.
    """
    members: dict[int, list[int]] = {}
    for i, example in enumerate(examples):
        members.setdefault(example.conversation, []).append(i)
    order = sorted(members, key=lambda conversation: _key(seed, conversation))
    wanted = math.ceil(share * len(examples) - 1e-9)
    if wanted <= 0 or len(order) < 2:
        return list(examples), []
    apart: set[int] = set()
    num_left = len(order)
    for conversation in order:
        if num_left > 1 and len(apart) + len(members[conversation]) <= wanted:
            apart.update(members[conversation])
            num_left -= 1
    return _part(examples, apart or set(members[min(order, key=lambda one: len(members[one]))]))


def split_by_prompt(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Return both sides as runs were split before conversations counted: only what has the very same prompt is kept together."""
    by_prompt: dict[tuple[ChatTurn, ...], list[int]] = {}
    for i, example in enumerate(examples):
        by_prompt.setdefault(example.turns, []).append(i)
    groups = list(by_prompt.values())
    apart: set[int] = set()
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    for g in order[:-1]:  # one prompt at least stays for training
        if share == 0 or len(apart) >= share * len(examples):
            break
        apart.update(groups[g])
    return _part(examples, apart)


def _part(examples: Sequence[Example], apart: set[int]) -> tuple[list[Example], list[Example]]:
    return [e for i, e in enumerate(examples) if i not in apart], [e for i, e in enumerate(examples) if i in apart]


def _key(seed: int, conversation: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{conversation}".encode(), digest_size=16).digest()
