"""One kind of score of a run: found in the cache, or made and kept, and what is told of it: when it was not found, why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.domain.scoring import ScorePart
from worker.stages.examples import Encoded
from worker.stages.scoring.artifacts import ScoreManifest, list_manifests, lock
from worker.stages.scoring.cache import CROSS, EARLY, OWN, FlatScores, Layout, Wanted, find_scoring, score_in_groups
from worker.stages.scoring.pairs import own_prompts
from worker.stages.scoring.passes import Passes


@dataclass(frozen=True)
class CachedScores:
    """Matrices [B, M] by batch, as they were written (FlatScores.raw), and what is told of them.

    `told` is None when the scores stand in the data, so that no artifact is kept of them.
    """

    matrices: list[Tensor]
    told: ScorePart | None = None


def lay_out(batches: Sequence[Sequence[Encoded]]) -> Layout:
    return Layout([own_prompts(batch) for batch in batches], [len(batch) for batch in batches])


def find_or_score(
    passes: Passes,
    wanted: Wanted,
    layout: Layout,
    score: Callable[[int], tuple[Tensor, int]],
    what: str,
    backend: Callable[[], str] = str,
) -> CachedScores:
    """Return what is wanted from the cache, or scored and kept; while another process scores the same, wait for it.

    `score(k)` gives batch k's matrix and how many of its pairs were scored in full; `backend()` is asked after the last one.
    """
    attempt, num_batches = passes.attempt, len(layout.own)
    folder = Path(attempt.spec.scorings_dir)
    was_there = any((folder / key).is_dir() for key in wanted.serving_keys(folder))
    found = find_scoring(folder, wanted)
    if found is not None:
        return _reuse(passes, layout, found, what)

    def waiting() -> None:
        attempt.log(f"Another process is making the same {what}: waiting for it.")

    with lock(folder, wanted.key, check=attempt.stop.check, waiting=waiting):
        found = find_scoring(folder, wanted)
        if found is not None:
            return _reuse(passes, layout, found, what)
        reason = f"The {what} that were kept are damaged and are made again." if was_there else explain_miss(folder, wanted)
        attempt.log(f"The {what} of {num_batches} batches are scored now. {reason}")
        made = score_in_groups(folder, wanted, layout, score, passes.begin(num_batches), backend=backend)
    return CachedScores(layout.unflatten(0, num_batches, made.raw, made.manifest.extent), describe(made, reason))


def _reuse(passes: Passes, layout: Layout, found: FlatScores, what: str) -> CachedScores:
    num_batches = len(layout.own)
    passes.skip()
    passes.attempt.log(f"The {what} of all {num_batches} batches were scored before and are reused.")
    return CachedScores(layout.unflatten(0, num_batches, found.raw, found.manifest.extent), describe(found, ""))


def describe(scores: FlatScores, miss_reason: str) -> ScorePart:
    """Return what is told of an artifact; `miss_reason` is empty for a hit."""
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


WORDS = {
    "data": "the examples",
    "held_out_share": "the held-out share",
    "held_out_seed": "the seed of the held-out examples",
    "held_out_rule": "the rule of the held-out split",
    "weights": "the model's weights",
    "tokenizer": "the tokenizer or its chat template",
    "format": "the prompt format",
    "max_prompt": "the longest prompt",
    "max_response": "the longest response",
    "dtype": "the number type",
    "quantization": "the quantization",
    "batch_size": "the batch size",
    "seed": "the seed of the batch plan",
}
VALUES = {"plain turns": "Human and Assistant turns", "chat template": "the tokenizer's chat template"}
HELD_OUT = ("held_out_share", "held_out_seed", "held_out_rule")  # they count where other examples are scored for it
NAMES = {"logprob": "log-probabilities", "reward": "rewards"}
SHORT = 24  # longer values are hashes, which tell a reader nothing


def explain_miss(folder: Path, wanted: Wanted) -> str:
    """One sentence: what differs from the nearest kept scores of this kind, or that there are none."""
    what = NAMES[wanted.kind]
    kept = list(list_manifests(folder, wanted.kind))
    if not kept:
        return f"No {what} are kept yet."
    nearest = min(kept, key=lambda manifest: (len(_differing(wanted.facts, manifest.facts)), -manifest.made_at))
    differing = _differing(wanted.facts, nearest.facts)
    if not differing:
        return f"The nearest kept {what} {_describe_extent(wanted, nearest)}."
    reasons = [_describe(name, wanted.facts.get(name, ""), nearest.facts.get(name, "")) for name in differing]
    return f"The nearest kept {what} differ in {_join(reasons)}."


def _differing(wanted: Mapping[str, str], kept: Mapping[str, str]) -> list[str]:
    differing = [name for name in WORDS if wanted.get(name) != kept.get(name)]
    held_out = [name for name in HELD_OUT if name in differing and name in wanted and name in kept]
    causes = held_out if "data" in differing else []
    left_out = {*HELD_OUT} - {*causes}
    if causes and wanted.get("pool") == kept.get("pool"):  # the same data set: other examples of it are held out
        left_out.add("data")
    return [name for name in differing if name not in left_out]


def _describe(name: str, wanted: str, kept: str) -> str:
    if not wanted or not kept or max(len(wanted), len(kept)) > SHORT:
        return WORDS[name]
    return f"{WORDS[name]} ({VALUES.get(kept, kept)} there, {VALUES.get(wanted, wanted)} here)"


def _describe_extent(wanted: Wanted, kept: ScoreManifest) -> str:
    if kept.extent == OWN and wanted.extent != OWN:
        return "know each response behind its own prompt only, and those of other prompts are needed too"
    if kept.extent == EARLY and wanted.extent == CROSS:
        return "were stopped early, and all pairs are needed in full"
    if kept.extent == EARLY and (kept.smallest_lambda or 0.0) > (wanted.smallest_lambda or 0.0):
        return f"were stopped early for λ ≥ {kept.smallest_lambda:g}, and λ = {wanted.smallest_lambda:g} is needed"
    if kept.extent == EARLY and wanted.extent == EARLY:
        return "were stopped early by other rewards"
    return "were made from other tokens or texts of the same examples, as another version of a library may give them"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
