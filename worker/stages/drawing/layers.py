"""K draws of every prompt as layers of draws: those that there are, and one that adds what a larger K wants.

A draw depends on seed, prompt and its own number alone, so draws 0 … 7 are the same whether 8 or 16 are wanted. A layer holds
`count` draws of each prompt from `first` on, prompt by prompt; one from 0 on has the key that it had before there were layers.
Legend: P prompts, K draws of each that are wanted.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from worker.stages.drawing.kept import Artifact, Tensors
from worker.stages.scoring.artifacts import list_manifests, read_manifest

Item = TypeVar("Item")

KIND, FILE = "draws", "draws.safetensors"


@dataclass(frozen=True)
class Layer:
    """Some of the draws of every prompt. `facts`: what these depend on, but for how many there are."""

    facts: Mapping[str, str]
    first: int
    count: int

    @property
    def artifact(self) -> Artifact:
        more = {"num_draws": str(self.count)} | ({"first": str(self.first)} if self.first else {})
        return Artifact(KIND, FILE, {**self.facts, **more}, {**self.facts, **more})


def find_layers(folder: Path, facts: Mapping[str, str], num_draws: int) -> list[Layer]:
    """Return layers that hold K draws together: what there is, the longest first, and at the end one to be made if need be."""
    wanted = Layer(facts, 0, num_draws)
    if read_manifest(folder, wanted.artifact.key, FILE) is not None:
        return [wanted]
    kept = [_read_layer(manifest.facts) for manifest in list_manifests(folder, KIND)]
    same = [layer for layer in kept if layer is not None and layer.facts == facts]
    found: list[Layer] = []
    reached = 0
    while reached < num_draws:
        going_on = [layer for layer in same if layer.first == reached]
        layer = max(going_on, key=lambda one: one.count, default=Layer(facts, reached, num_draws - reached))
        found.append(layer)
        reached += layer.count
    return found


def _read_layer(facts: Mapping[str, str]) -> Layer | None:
    """Return what a manifest tells of; None for one of a time when it did not tell enough."""
    others = {name: value for name, value in facts.items() if name not in ("num_draws", "first")}
    if "prompts" not in facts or "num_draws" not in facts:
        return None
    return Layer(others, int(facts.get("first", "0")), int(facts["num_draws"]))


def split_ids(answers: Tensors) -> list["array[int]"]:
    """Return the ids of each answer of a layer."""
    return [array("i", part.tolist()) for part in answers["ids"].split(answers["num_tokens"].tolist())]


def merge(parts: Sequence[Tensor], layers: Sequence[Layer], num_draws: int) -> Tensor:
    """Return the layers' numbers of all answers [P·count] as those of the first K draws of each prompt, [P·K]."""
    table_PK = torch.cat([part.view(-1, layer.count) for part, layer in zip(parts, layers, strict=True)], dim=1)
    return table_PK[:, :num_draws].flatten()


def merge_lists(parts: Sequence[Sequence[Item]], layers: Sequence[Layer], num_draws: int) -> list[Item]:
    """Return the same for the answers' ids or texts."""
    places = [torch.arange(len(part)) + start for part, start in zip(parts, _starts(parts), strict=True)]
    together = [item for part in parts for item in part]
    return [together[place] for place in merge(places, layers, num_draws).tolist()]


def _starts(parts: Sequence[Sequence[object]]) -> list[int]:
    return [sum(map(len, parts[:number])) for number in range(len(parts))]
