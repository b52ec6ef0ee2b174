"""Prompts, answers and scores as they lie in the data folder: JSON lines, answers and scores in parts of so many prompts.

prompt_sets/<id>/prompts.jsonl
answers/<id>/model.json  part-000012.jsonl  scores/<judge's key>/part-000012.jsonl
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.domain.answering.answers import prompts_per_part
from app.store.files.files import Files
from app.store.tables import Answers, PromptSet

PROMPTS = "prompts.jsonl"
Line = dict[str, Any]


def prompts_path(files: Files, prompt_set_id: str) -> Path:
    return files.prompt_set_dir(prompt_set_id) / PROMPTS


def read_prompts(files: Files, prompt_set: PromptSet, start: int = 0, limit: int | None = None) -> list[Line]:
    """Return the prompts from index `start` on, as they are kept: index, id, messages, reference, tags."""
    files.bring(files.prompt_set_dir(prompt_set.id))
    end = prompt_set.num_prompts if limit is None else start + limit
    found = []
    for place, line in enumerate(_open(prompts_path(files, prompt_set.id))):
        if place >= end:
            break
        if place >= start:
            found.append(json.loads(line))
    return found


def read_answers(files: Files, answers: Answers, start: int = 0, limit: int | None = None) -> list[Line]:
    """Return the answers to the prompts from index `start` to `start + limit`, by prompt and draw; those that are not there yet
    are left out.

    Each: index, prompt_id, draw, text, ids, finished, logprob, logprobs; with `earlier`, the answers to earlier turns.
    """
    files.bring(files.answers_dir(answers.id))
    return _read_parts(files.answers_dir(answers.id), _part_size(answers), start, limit)


def read_scores(files: Files, answers: Answers, judge_key: str) -> dict[tuple[int, int], float | None]:
    """Return the scores of one judge by prompt's index and draw; None where it could not say."""
    files.bring(files.answers_dir(answers.id))
    lines = _read_parts(files.scores_dir(answers.id, judge_key), _part_size(answers), 0, None)
    return {(line["index"], line["draw"]): line["score"] for line in lines}


def part_name(number: int) -> str:
    return f"part-{number:06d}.jsonl"


def _part_size(answers: Answers) -> int:
    return prompts_per_part(answers.num_draws, answers.sampling["max_new_tokens"])


def _read_parts(folder: Path, size: int, start: int, limit: int | None) -> list[Line]:
    end = None if limit is None else start + limit
    paths = (
        sorted(folder.glob("part-*.jsonl"))
        if end is None
        else [folder / part_name(n) for n in range(start // size, -(-end // size))]
    )
    lines = [json.loads(line) for path in paths for line in _open(path)]
    return [line for line in lines if line["index"] >= start and (end is None or line["index"] < end)]


def _open(path: Path) -> Iterator[str]:
    """Yield the lines of a file; of one that is not there, none."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except FileNotFoundError:
        return
