"""Stage 1: read the examples, turn them into token ids, cut what is too long, and set prompts aside for evaluation."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from app.domain.errors import DatasetInvalid, RecipeInvalid
from app.domain.memory import fit_window
from app.domain.recipe import Method, Recipe, TokenSettings
from worker.models.prompts import PromptFormat, PromptRefused, Turn

READ_ROWS = 512


@dataclass(frozen=True)
class EncodedResponse:
    ids: "array[int]"
    content: str
    rating: float | None
    preference: int | None
    number: int  # position among the example's responses in the data set


@dataclass(frozen=True)
class Encoded:
    """One example as the run uses it."""

    example_id: int
    turns: tuple[Turn, ...]
    prompt_ids: "array[int]"
    responses: tuple[EncodedResponse, ...]

    @property
    def longest(self) -> int:
        return len(self.prompt_ids) + max(len(response.ids) for response in self.responses)


@dataclass(frozen=True)
class Lengths:
    """Token limits after the model's context window was taken into account."""

    max_prompt: int
    max_response: int
    max_new_tokens: int


@dataclass
class Prepared:
    train: list[Encoded]
    held_out: list[Encoded]
    num_equal_pairs: int
    num_pairs: int
    counts: Counter[str] = field(default_factory=Counter)


def fit_lengths(tokens: TokenSettings, max_new_tokens: int, window: int | None) -> Lengths:
    """Shrink the recipe's limits until prompt and response fit the context window; the response keeps at least half of it."""
    max_prompt, max_response = fit_window(tokens.max_prompt, tokens.max_response, window)
    limit = max_new_tokens if window is None else max(1, min(max_new_tokens, window - max_prompt))
    if max_prompt < 1:
        raise RecipeInvalid.at(
            "tokens.max_response", f"The policy's context window of {window} tokens leaves no room for a prompt."
        )
    return Lengths(max_prompt, max_response, limit)


def prepare(
    recipe: Recipe, path: Path, prompt_format: PromptFormat, lengths: Lengths, progress: Callable[[int, int], None]
) -> Prepared:
    """Encode the data set in `path` (the internal Parquet form) and split it; raises DatasetInvalid when nothing is left."""
    counts: Counter[str] = Counter()
    examples: list[Encoded] = []
    total = _count_rows(path, recipe.max_examples)
    done = 0
    for rows in _read(path, total):
        examples += _encode_rows(rows, recipe, prompt_format, lengths, counts)
        done += len(rows)
        progress(done, total)
    if not examples:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.items()) or "it has no rows"
        raise DatasetInvalid(
            f"No example of the data set can be used ({reasons}). Check the recipe's reward source and token limits."
        )
    pairs = [(a, b) for e in examples for a in e.responses for b in e.responses if a.preference == 1 and b.preference == -1]
    train, held_out = split(examples, recipe.evaluation.share, recipe.evaluation.seed)
    return Prepared(train, held_out, sum(a.ids == b.ids for a, b in pairs), len(pairs), counts)


def split(examples: Sequence[Encoded], share: float, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Training and held-out examples; a prompt that occurs several times is wholly on one side."""
    by_prompt: dict[tuple[Turn, ...], list[int]] = {}
    for i, example in enumerate(examples):
        by_prompt.setdefault(example.turns, []).append(i)
    groups = list(by_prompt.values())
    held: set[int] = set()
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    for g in order[:-1]:  # one prompt at least stays for training
        if share == 0 or len(held) >= share * len(examples):
            break
        held.update(groups[g])
    return [e for i, e in enumerate(examples) if i not in held], [e for i, e in enumerate(examples) if i in held]


def _count_rows(path: Path, limit: int | None) -> int:
    try:
        num_rows: int = pq.ParquetFile(path).metadata.num_rows
    except (OSError, ValueError) as error:
        raise DatasetInvalid(f"The prepared data set {path.name} can't be read ({error}). Upload the data again.") from error
    return num_rows if limit is None else min(limit, num_rows)


def _read(path: Path, total: int) -> Iterator[list[dict[str, Any]]]:
    left = total
    for batch in pq.ParquetFile(path).iter_batches(READ_ROWS, columns=["example_id", "prompt", "responses"]):
        rows = batch.to_pylist()[:left]
        left -= len(rows)
        if rows:
            yield rows
        if left <= 0:
            return


def _encode_rows(
    rows: list[dict[str, Any]], recipe: Recipe, prompt_format: PromptFormat, lengths: Lengths, counts: Counter[str]
) -> Iterator[Encoded]:
    kept = []
    for row in rows:
        turns = tuple((message["role"], message["content"]) for message in row["prompt"])
        responses = _usable(row["responses"], recipe)
        if not responses:
            counts[f"without a {recipe.reward.source}"] += 1
            continue
        try:
            kept.append((row["example_id"], turns, prompt_format.write_prompt(turns), responses))
        except PromptRefused:
            counts["prompt refused by the chat template"] += 1
    if not kept:
        return
    prompts = prompt_format.encode_prompts([text for _, _, text, _ in kept], lengths.max_prompt)
    contents = [response["content"] for _, _, _, responses in kept for _, response in responses]
    encoded = iter(prompt_format.encode_responses(contents, lengths.max_response))
    for (example_id, turns, _, responses), (prompt_ids, prompt_cut) in zip(kept, prompts, strict=True):
        answers = [(number, response, *next(encoded)) for number, response in responses]
        cut = prompt_cut or any(is_cut for *_, is_cut in answers)
        counts["prompts cut"] += prompt_cut
        counts["responses cut"] += sum(is_cut for *_, is_cut in answers)
        if cut and recipe.tokens.overlong == "drop":
            counts["over the token limits"] += 1
        elif not all(ids for _, _, ids, _ in answers) or not prompt_ids:
            counts["empty after tokenising"] += 1
        else:
            yield Encoded(
                example_id,
                turns,
                array("i", prompt_ids),
                tuple(
                    EncodedResponse(array("i", ids), response["content"], response["rating"], response["preference"], number)
                    for number, response, ids, _ in answers
                ),
            )


def _usable(responses: list[dict[str, Any]], recipe: Recipe) -> list[tuple[int, dict[str, Any]]]:
    """Return the responses that have what the reward source needs, with their numbers. Plain fine-tuning needs no labels."""
    column = {"rating": "rating", "preference": "preference", "model": None}[recipe.reward.source]
    if recipe.method is Method.SFT and column == "preference":
        column = None
    return [(number, response) for number, response in enumerate(responses) if column is None or response[column] is not None]
