"""What is known of the model that judges a run: whether the run learns from it, and whether it knows the held-out prompts.

A reward model that was trained here says beside its weights which conversations it has learned from.
"""

from array import array
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.events import FindingRaised
from app.domain.findings import raise_finding
from app.domain.recipe import Method
from app.domain.training.methods import ON_GROUPS
from app.system.numbers import percent
from worker.models.load import hash_folder, resolve_folder
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded

LEARNED_FROM = "conversations.parquet"


def keep_learned(folder: Path, examples: Sequence[Encoded]) -> None:
    """Write into a trained reward model's folder which conversations it has learned from, by their openings."""
    openings = array("q", sorted({example.opening for example in examples}))
    pq.write_table(pa.table({"opening": pa.array(openings, pa.int64())}), folder / LEARNED_FROM)


def judging_findings(attempt: AttemptContext, held_out: Sequence[Encoded]) -> list[FindingRaised]:
    """Return what is to be said of the model that judges the run's answers; nothing where none does."""
    spec, recipe = attempt.spec, attempt.recipe
    source = spec.judge or spec.reward
    if source is None or not held_out:
        return []
    judge = resolve_folder(source, Path(spec.hub_dir))
    found = []
    taught = [spec.reward, *spec.further] if spec.reward is not None and recipe.method in (Method.VAR, *ON_GROUPS) else []
    if any(_is_same(resolve_folder(one, Path(spec.hub_dir)), judge) for one in taught):
        found.append(raise_finding("judge_is_reward", "The answers are judged by the reward model that the policy learns from."))
    if evidence := find_seen(judge, held_out):
        found.append(raise_finding("judge_saw_held_out", evidence))
    return found


def find_seen(judge: Path, held_out: Sequence[Encoded]) -> str | None:
    """Evidence of `judge_saw_held_out`; None for a model that does not say what it has learned from."""
    try:
        learned = set(pq.read_table(judge / LEARNED_FROM, columns=["opening"])["opening"].to_pylist())
    except (OSError, ValueError, KeyError):
        return None
    num_seen = sum(example.opening in learned for example in held_out)
    if not num_seen:
        return None
    return (
        f"{num_seen} of {len(held_out)} held-out examples ({percent(num_seen / len(held_out))}) are of conversations that the "
        "judging reward model has learned from."
    )


def _is_same(reward: Path, judge: Path) -> bool:
    """Return whether two folders hold the same model; their weights are read only where their sizes are the same."""
    return reward == judge or (_size(reward) == _size(judge) and hash_folder(reward) == hash_folder(judge))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
