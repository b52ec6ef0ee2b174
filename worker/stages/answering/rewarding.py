"""A reward model as the judge of answers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain.answering.job import AnswersSpec
from app.domain.answering.prompt_set import Prompt, interleave
from app.domain.errors import ModelInvalid
from app.domain.jobs import ModelSource
from worker.models.load import hash_folder, release_memory, resolve_folder
from worker.models.prompts import Conversation
from worker.models.reward import RewardModel
from worker.models.template import ChatTurn
from worker.stages.answering.kept import Row, Scorer
from worker.stages.job import JobContext


def open_reward(attempt: JobContext, spec: AnswersSpec, source: ModelSource) -> tuple[Scorer, str]:
    """Return the scorer of a reward model, which is loaded when it is first asked, and the hash of the model's files."""
    folder = resolve_folder(source, Path(spec.hub_dir))
    loaded: list[RewardModel] = []

    def score(prompts: Sequence[Prompt], rows: list[Row]) -> list[float | None]:
        model = loaded[0] if loaded else _load_reward(attempt, folder)
        loaded[:] = [model]
        by_index = {prompt.index: prompt for prompt in prompts}
        scores = model.score([converse(by_index[row["index"]], row) for row in rows], attempt.stop.check)
        if not all(map(math.isfinite, scores)):
            raise ModelInvalid(
                "The reward model gives a number that is not finite for one of the answers: its weights are damaged or overflow. "
                "Take another judge."
            )
        return list(scores)

    return score, hash_folder(folder)


def _load_reward(attempt: JobContext, folder: Path) -> RewardModel:
    release_memory()
    model = RewardModel(folder, dtype="float32", device=attempt.spec.device, day=attempt.spec.launched_on)
    if model.remark:
        attempt.log(model.remark, "warning")
    return model


def converse(prompt: Prompt, row: dict[str, Any]) -> Conversation:
    """Return the whole conversation that an answer ends, with the model's own earlier answers."""
    turns = [ChatTurn(turn.role, turn.content) for turn in interleave(prompt.messages, row.get("earlier", ()))]
    return Conversation(turns, ChatTurn("assistant", row["text"]))
