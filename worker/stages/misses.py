"""Why scores were not found in the cache: what differs from the nearest ones that are kept, in a sentence."""

from collections.abc import Mapping
from pathlib import Path

from worker.stages.artifacts import Manifest, list_manifests
from worker.stages.scorings import CROSS, EARLY, OWN, Wanted

WORDS = {
    "data": "the examples",
    "held_out_share": "the held-out share",
    "held_out_seed": "the seed of the held-out examples",
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
HELD_OUT = ("held_out_share", "held_out_seed")  # they count where other examples are scored for it
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


def _describe_extent(wanted: Wanted, kept: Manifest) -> str:
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
