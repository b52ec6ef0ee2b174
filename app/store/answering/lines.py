"""Prompts, answers and scores as they lie in the data folder (app.domain.answering.layout): JSON lines, read by the page."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.domain.answering.layout import PROMPTS, name_part, name_tokens, prompts_per_part
from app.store.files.files import Files
from app.store.tables import Answers, PromptSet

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

    Each: index, prompt_id, draw, text, finished, num_tokens, logprob (null where the model is not here); of several turns,
    `earlier` holds the answers before.
    """
    files.bring(files.answers_dir(answers.id))
    return _read_parts(files.answers_dir(answers.id), _part_size(answers), start, limit)


def read_tokens(files: Files, answers: Answers, index: int) -> list[Line]:
    """Return the tokens of the answers to one prompt: index, draw, ids, logprobs."""
    files.bring(files.answers_dir(answers.id))
    return _read_parts(files.answers_dir(answers.id), _part_size(answers), index, 1, name_tokens)


def read_scores(files: Files, answers: Answers, judge_key: str) -> dict[tuple[int, int], float | None]:
    """Return the scores of one judge by prompt's index and draw; None where it could not say."""
    files.bring(files.answers_dir(answers.id))
    lines = _read_parts(files.scores_dir(answers.id, judge_key), _part_size(answers), 0, None)
    return {(line["index"], line["draw"]): line["score"] for line in lines}


def _part_size(answers: Answers) -> int:
    return prompts_per_part(answers.num_draws, answers.sampling["max_new_tokens"])


def _read_parts(folder: Path, size: int, start: int, limit: int | None, naming: Callable[[int], str] = name_part) -> list[Line]:
    end = None if limit is None else start + limit
    paths = (
        sorted(folder.glob("part-*.jsonl"))
        if end is None
        else [folder / naming(n) for n in range(start // size, -(-end // size))]
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
