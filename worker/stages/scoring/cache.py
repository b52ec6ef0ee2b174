"""The cache of scores: log π_ref(y_j|x_i) or r(x_i, y_j) of a batch plan, made once, in groups that outlive a kill.

scorings/<key>/scores.safetensors  manifest.json      `scores`: one float32 tensor, 4 bytes a pair
scorings/<key>.partial/group-00003.safetensors        what a killed pass leaves for the next one
A complete artifact holds the matrices [B, M] of all batches row by row, end to end, in the plan's order; one of own pairs
only holds one number per response. worker.stages.scoring.index says which response stands where.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from worker.stages.scoring.artifacts import ScoreManifest, keep, list_manifests, make_key, read_manifest, write_tensors

FILE = "scores.safetensors"
GROUP_SIZE = 16  # batches; a kill loses at most one group
OWN, CROSS, EARLY = "own", "cross", "early"


@dataclass(frozen=True)
class FlatScores:
    """An artifact: its tensor as it was written, `raw` float32, with the manifest that says what it is.

    In a pass of log-probabilities that stopped early, a pair that was dropped when its sum had come to −s stands as s > 0.
    """

    raw: Tensor
    manifest: ScoreManifest

    @property
    def scores(self) -> Tensor:
        """The scores: log-probabilities of dropped pairs are −inf; rewards that were never asked for are NaN."""
        return read_dropped(self.raw) if self.manifest.extent == EARLY and self.manifest.kind == "logprob" else self.raw

    @property
    def cross(self) -> bool:
        """Whether `scores` holds whole matrices [B, M]; otherwise one number per response, for its own prompt."""
        return self.manifest.extent != OWN


def read_dropped(raw: Tensor) -> Tensor:
    """Log-probabilities as a pass that stopped early wrote them, −inf for dropped pairs."""
    return raw.masked_fill(raw > 0, -torch.inf)


def read_scores(folder: Path, key: str) -> FlatScores:
    """Return the artifact kept as `key`; raises FileNotFoundError when it is gone or damaged."""
    found = _load(folder, key)
    if found is None:
        raise FileNotFoundError(f"The scores {key} are gone or damaged. Make the scoring again.")
    return found


@dataclass(frozen=True)
class Layout:
    """How the batches of a plan lie in flat tensors: `own[k]` is own_M of batch k, `num_prompts[k]` its prompts."""

    own: Sequence[Tensor]
    num_prompts: Sequence[int]

    def count_pairs(self, extent: str) -> int:
        return sum(len(own_M) * (1 if extent == OWN else num) for own_M, num in zip(self.own, self.num_prompts, strict=True))

    def flatten(self, start: int, matrices: Sequence[Tensor], extent: str) -> Tensor:
        """Matrices of consecutive batches, the first of them batch `start`, end to end."""
        if extent != OWN:
            return torch.cat([matrix_BM.flatten() for matrix_BM in matrices])
        own = self.own[start : start + len(matrices)]
        return torch.cat([matrix_BM.gather(0, own_M[None])[0] for own_M, matrix_BM in zip(own, matrices, strict=True)])

    def unflatten(self, start: int, end: int, scores: Tensor, extent: str) -> list[Tensor]:
        """Return the matrices [B, M] of batches start … end − 1; raises ValueError when the number of scores does not fit."""
        own, nums = self.own[start:end], self.num_prompts[start:end]
        sizes = [len(own_M) * (1 if extent == OWN else num) for own_M, num in zip(own, nums, strict=True)]
        if len(scores) != sum(sizes):
            raise ValueError(f"{len(scores)} scores where {sum(sizes)} were expected")
        parts = scores.split(sizes)
        if extent != OWN:
            return [part.view(num, -1) for part, num in zip(parts, nums, strict=True)]
        matrices = [torch.full((num, len(own_M)), torch.nan) for own_M, num in zip(own, nums, strict=True)]
        for matrix_BM, own_M, part_M in zip(matrices, own, parts, strict=True):
            matrix_BM[own_M, torch.arange(len(own_M))] = part_M
        return matrices


@dataclass(frozen=True)
class Wanted:
    """What a run needs of one kind of score, logprob or reward.

    `identity` is what the numbers depend on, `facts` the same for people.
    extent own, cross or early; early: pairs may be dropped for `smallest_lambda` (raw reward units) given `stopping`, the
    digest of the rewards that the certificates rest on.
    """

    kind: str
    identity: Mapping[str, str]
    facts: Mapping[str, str]
    extent: str
    smallest_lambda: float | None = None
    stopping: str = ""

    @property
    def key(self) -> str:
        early = {"smallest_lambda": self.smallest_lambda, "stopping": self.stopping} if self.extent == EARLY else {}
        return self._name(self.extent, early)

    def _name(self, extent: str, early: Mapping[str, object]) -> str:
        return make_key(self.kind, {"identity": dict(self.identity), "extent": extent, **early})

    def serving_keys(self, folder: Path) -> list[str]:
        """Names of the artifacts that hold what is wanted, if they are there: the smallest first."""
        whole = self._name(CROSS, {})
        if self.extent == CROSS:
            return [whole]
        early = [m for m in list_manifests(folder, self.kind) if m.extent == EARLY and self._served_by(m)]
        ranked = [m.key for m in sorted(early, key=lambda m: -(m.smallest_lambda or 0.0))]
        return [*([self._name(OWN, {})] if self.extent == OWN else []), whole, *ranked]

    def _served_by(self, early: ScoreManifest) -> bool:
        """Own pairs are always scored in full; dropped ones are certain for the λ of the pass and every larger one."""
        stopping = early.facts.get("stopping", "")
        same = early.key == self._name(EARLY, {"smallest_lambda": early.smallest_lambda, "stopping": stopping})
        if self.extent == OWN or not same:
            return same
        return stopping == self.stopping and (early.smallest_lambda or 0.0) <= (self.smallest_lambda or 0.0)


def find_scoring(folder: Path, wanted: Wanted) -> FlatScores | None:
    """Return a finished artifact that holds what is wanted, or None; a damaged one is removed and made again."""
    for key in wanted.serving_keys(folder):
        found = _load(folder, key)
        if found is not None:
            return found
    return None


def _load(folder: Path, key: str) -> FlatScores | None:
    manifest = read_manifest(folder, key, FILE)
    if manifest is None:
        return None
    try:
        return FlatScores(load_file(folder / key / FILE)["scores"], manifest)
    except (OSError, KeyError, SafetensorError):
        shutil.rmtree(folder / key, ignore_errors=True)
        return None


def score_in_groups(
    folder: Path,
    wanted: Wanted,
    layout: Layout,
    score: Callable[[int], tuple[Tensor, int]],
    progress: Callable[[int, int], None],
    *,
    backend: Callable[[], str] = str,
) -> FlatScores:
    """Score every batch, resuming after the groups that an earlier pass saved, and keep the result.

    `score(k)` gives batch k's matrix [B, M] and how many of its pairs were scored in full; `backend()` is asked at the end.
    """
    partial, num_batches, began = folder / f"{wanted.key}.partial", len(layout.own), time.monotonic()
    groups: list[Tensor] = []
    num_scored = 0
    for start in range(0, num_batches, GROUP_SIZE):
        end = min(start + GROUP_SIZE, num_batches)
        path = partial / f"group-{start // GROUP_SIZE:05d}.safetensors"
        saved = _load_group(path, layout, start, end, wanted.extent)
        if saved is None:
            matrices = []
            count = 0
            for k in range(start, end):
                matrix_BM, num = score(k)
                matrices.append(matrix_BM)
                count += num
                progress(k + 1, num_batches)
            saved = layout.flatten(start, matrices, wanted.extent), count
            write_tensors(path, {"scores": saved[0], "num_scored": torch.tensor(saved[1])})
        groups.append(saved[0])
        num_scored += saved[1]
        progress(end, num_batches)
    facts = {**wanted.facts, **({"stopping": wanted.stopping} if wanted.extent == EARLY else {})}
    manifest = ScoreManifest(
        wanted.key, wanted.kind, facts, wanted.extent, num_batches, layout.count_pairs(wanted.extent), num_scored,
        wanted.smallest_lambda if wanted.extent == EARLY else None, backend(), time.monotonic() - began,
    )  # fmt: skip
    scores = torch.cat(groups)
    whole = keep(folder, manifest, FILE, {"scores": scores})
    shutil.rmtree(partial, ignore_errors=True)
    return FlatScores(scores, replace(whole, seconds=manifest.seconds))


def _load_group(path: Path, layout: Layout, start: int, end: int, extent: str) -> tuple[Tensor, int] | None:
    try:
        tensors = load_file(path)
        scores, num_scored = tensors["scores"], int(tensors["num_scored"])
        layout.unflatten(start, end, scores, extent)
    except (FileNotFoundError, KeyError, ValueError, SafetensorError):
        return None
    return scores, num_scored
