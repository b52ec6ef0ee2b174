"""One kind of score of a run: found in the cache, or made and kept, and what is told of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.domain.run import Stage
from app.domain.scoring import ScorePart
from worker.stages.artifacts import lock
from worker.stages.attempt import Attempt
from worker.stages.misses import explain_miss
from worker.stages.prepare import Encoded
from worker.stages.score import own_prompts
from worker.stages.scorings import OWN, FlatScores, Layout, Wanted, find_scoring, score_in_groups


@dataclass(frozen=True)
class Part:
    """Matrices [B, M] by batch, as they were written (FlatScores.raw), and what is told of them.

    `told` is None when the scores stand in the data, so that no artifact is kept of them.
    """

    matrices: list[Tensor]
    told: ScorePart | None = None


def lay_out(batches: Sequence[Sequence[Encoded]]) -> Layout:
    return Layout([own_prompts(batch) for batch in batches], [len(batch) for batch in batches])


def find_or_score(
    attempt: Attempt,
    wanted: Wanted,
    layout: Layout,
    score: Callable[[int], tuple[Tensor, int]],
    what: str,
    backend: Callable[[], str] = str,
) -> Part:
    """What is wanted from the cache, or scored and kept; while another process scores the same, wait for it.

    `score(k)` gives batch k's matrix and how many of its pairs were scored in full; `backend()` is asked after the last one.
    """
    folder, num_batches = Path(attempt.spec.scorings_dir), len(layout.own)
    was_there = any((folder / key).is_dir() for key in wanted.serving_keys(folder))
    found = find_scoring(folder, wanted)
    if found is not None:
        return _reuse(attempt, layout, found, what)

    def waiting() -> None:
        attempt.log(f"Another process is making the same {what}: waiting for it.")

    with lock(folder, wanted.key, check=attempt.stop.check, waiting=waiting):
        found = find_scoring(folder, wanted)
        if found is not None:
            return _reuse(attempt, layout, found, what)
        reason = f"The {what} that were kept are damaged and are made again." if was_there else explain_miss(folder, wanted)
        attempt.log(f"The {what} of {num_batches} batches are scored now. {reason}")
        progress = attempt.start_stage(Stage.SCORE, total=num_batches, unit=f"batches of {what}")
        made = score_in_groups(folder, wanted, layout, score, progress, backend=backend)
    return Part(layout.unflatten(0, num_batches, made.raw, made.manifest.extent), describe(made, reason))


def _reuse(attempt: Attempt, layout: Layout, found: FlatScores, what: str) -> Part:
    num_batches = len(layout.own)
    attempt.log(f"The {what} of all {num_batches} batches were scored before and are reused.")
    return Part(layout.unflatten(0, num_batches, found.raw, found.manifest.extent), describe(found, ""))


def describe(scores: FlatScores, miss_reason: str) -> ScorePart:
    """What is told of an artifact; `miss_reason` is empty for a hit."""
    manifest, hit = scores.manifest, not miss_reason
    return ScorePart(
        key=manifest.key,
        hit=hit,
        miss_reason=miss_reason,
        cross=manifest.extent != OWN,
        backend="" if hit else manifest.backend,
        num_pairs=manifest.num_pairs,
        num_scored=manifest.num_scored,
        smallest_lambda=manifest.smallest_lambda,
        size_bytes=manifest.size_bytes,
        seconds=0.0 if hit else manifest.seconds,
    )


def gather_own(layout: Layout, matrices: Sequence[Tensor]) -> Tensor:
    """Of matrices [B, M], the entries of own pairs, end to end: [N]."""
    pairs = zip(layout.own, matrices, strict=True)
    return torch.cat([matrix_BM.gather(0, own_M[None])[0] for own_M, matrix_BM in pairs])
