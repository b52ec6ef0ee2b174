"""Answers of planted models to planted prompts, as workers would have left them: rows, files, and what judges said."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.judge import JudgementFacts
from app.domain.answering.layout import name_part, prompts_per_part
from app.domain.answering.prompt_set import Prompt, PromptMessage, identify, to_lines
from app.services.comparing import comparisons
from app.store.answering.lines import prompts_path
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Answers, Comparison, Judgement, PromptSet
from app.system.identifiers import new_id

WORDS = ("kind", "order", "parcel", "refund", "sorry", "today", "number", "please", "address", "replacement", "waiting", "thanks")


SHORT = SamplingSettings(max_new_tokens=64)


@dataclass(frozen=True)
class Planted:
    """A model whose answers get `mean` more reward than the prompt gives anyway."""

    name: str
    mean: float = 0.0
    sha256: str | None = None  # of its weights; as is: of its name
    sampling: SamplingSettings = SHORT
    has_turns: bool = False  # its answers are the last of several turns


def plant_prompts(session: Session, files: Files, owner_id: str, num_prompts: int, name: str = "Help desk") -> PromptSet:
    """Write a prompt set."""
    prompts = []
    for index in range(num_prompts):
        messages = (PromptMessage(role="user", content=f"Question {index}: where is my parcel <b>{index}</b>?"),)
        prompts.append(Prompt(index=index, id=identify(messages), messages=messages, reference=f"Answer {index}"))
    row = PromptSet(
        id=new_id("prompts"), owner_id=owner_id, name=name, sha256="a" * 64, num_prompts=num_prompts,
        facts={"num_several_turns": 0, "num_references": num_prompts, "num_characters": 0, "num_dropped": 0},
        source={"kind": "text"}, created_at=now(session),
    )  # fmt: skip
    session.add(row)
    session.flush()
    write(prompts_path(files, row.id), to_lines(prompts))
    return row


def plant_answers(
    session: Session, files: Files, prompts: PromptSet, model: Planted, *,
    judges: Sequence[str] = ("reward", "length"), num_draws: int = 1, is_ready: bool = True, seed: int = 0, **changes: Any,
) -> Answers:  # fmt: skip
    """Write a model's answers to all prompts, and what the judges say of them."""
    sampling = model.sampling
    row = Answers(
        id=new_id("answers"), owner_id=prompts.owner_id, name=f"{model.name} on {prompts.name}", fingerprint=new_id("f"),
        prompt_set_id=prompts.id, model={"source": "model", "model": "model_1"}, model_id=None, model_run_id=None,
        model_name=model.name, num_draws=num_draws, sampling=sampling.model_dump(mode="json"), run_id=None, facts=None,
        created_at=now(session), used_at=now(session),
    )  # fmt: skip
    for name, value in changes.items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    if not is_ready:
        return row
    row.facts = {
        "num_prompts": prompts.num_prompts, "num_answers": prompts.num_prompts * num_draws,
        "num_finished": prompts.num_prompts * num_draws, "num_tokens": 0, "num_missing": 0, "seconds": 1.0,
        "model_sha256": model.sha256 or f"{model.name:0<64}",
    }  # fmt: skip
    lines = draw_answers(model, prompts.num_prompts, num_draws, seed)
    size = prompts_per_part(num_draws, sampling.max_new_tokens)
    write_parts(files.answers_dir(row.id), lines, size)
    for kind in judges:
        judgement = Judgement(
            id=new_id("judgement"), answers_id=row.id, key=f"key_{kind}", kind=kind, name=f"{kind.capitalize()} judge",
            judge={"kind": kind, **({"model": "model_1"} if kind == "reward" else {})}, created_at=now(session),
        )  # fmt: skip
        session.add(judgement)
        scores = [{"index": one["index"], "draw": one["draw"], "score": score(kind, one, model, seed)} for one in lines]
        write_parts(files.scores_dir(row.id, judgement.key), scores, size)
        mean = sum(one["score"] for one in scores) / len(scores)
        judgement.facts = JudgementFacts(num_scored=len(scores), num_prompts=prompts.num_prompts, mean=mean, se=None).model_dump(
            mode="json"
        )
    session.flush()
    return row


def draw_answers(model: Planted, num_prompts: int, num_draws: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(f"{model.name}{seed}")
    return [
        {
            **({"earlier": [f"First of {model.name} {index}"]} if model.has_turns else {}),
            "index": index, "prompt_id": str(index), "draw": draw, "ids": [1, 2], "num_tokens": 2, "finished": True,
            "logprob": None,
            "text": f"{' '.join(chance.choices(WORDS, k=chance.randint(4, 12)))} {index}", "logprobs": None,
        }
        for index in range(num_prompts) for draw in range(num_draws)
    ]  # fmt: skip


def score(kind: str, line: dict[str, Any], model: Planted, seed: int) -> float:
    if kind == "length":
        return float(len(line["text"]))
    hardness = random.Random(f"{line['index']}{kind}").gauss(0, 3)
    return round(hardness + model.mean + random.Random(f"{line}{model.name}{kind}{seed}").gauss(0, 1), 6)


def write_parts(folder: Path, lines: Sequence[dict[str, Any]], size: int) -> None:
    parts: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        parts.setdefault(line["index"] // size, []).append(line)
    for number, part in parts.items():
        write(folder / name_part(number), "".join(json.dumps(line) + "\n" for line in part).encode())


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def plant_comparison(
    database: Database, files: Files, owner_id: str, models: Sequence[Planted] = (Planted("Kind", 1.0), Planted("Curt")), *,
    num_prompts: int = 40, **options: Any,
) -> Comparison:  # fmt: skip
    """Write a comparison with all that it shows, committed."""
    with database.writing() as session:
        prompts = plant_prompts(session, files, owner_id, num_prompts)
        answers = [plant_answers(session, files, prompts, model, **options) for model in models]
        return comparisons.create(session, owner_id, [one.id for one in answers])
