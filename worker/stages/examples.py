"""Stage 1: read the examples, turn them into token ids, cut what is too long, and set prompts aside for evaluation."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from app.domain.errors import DatasetInvalid, RecipeInvalid
from app.domain.memory import fit_window
from app.domain.recipe import Method, Recipe, TokenSettings
from worker.models.encode import encode
from worker.models.prompts import Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused

READ_ROWS = 512


@dataclass(frozen=True)
class EncodedResponse:
    ids: "array[int]"
    content: str
    rating: float | None
    preference: int | None
    number: int  # position among the example's responses in the data set
    fields: str = ""  # what else the message carries: see ChatTurn
    overlap: int = 0  # how many of the prompt's last ids its first id has melted with

    def as_turn(self) -> ChatTurn:
        return ChatTurn("assistant", self.content, self.fields)


@dataclass(frozen=True)
class Encoded:
    """One example as the run uses it; `turns` are what the prompt still has of its messages, where it was cut."""

    example_id: int
    turns: tuple[ChatTurn, ...]
    prompt_ids: "array[int]"
    responses: tuple[EncodedResponse, ...]
    tools: str = ""
    is_continued: bool = False  # the prompt ends within the assistant's turn

    def prompt_before(self, response: EncodedResponse) -> "array[int]":
        """Return the prompt's ids as they stand before a response, its own or another prompt's."""
        return self.prompt_ids if self.is_continued else self.prompt_ids[: -response.overlap or None]

    def families(self, responses: Iterable[EncodedResponse]) -> list[tuple["array[int]", list["array[int]"]]]:
        """Return the prompt with the ids of these responses, which are sorted by their overlap: once for each overlap."""
        grouped = groupby(responses, lambda response: 0 if self.is_continued else response.overlap)
        return [(self.prompt_ids[: -overlap or None], [r.ids for r in together]) for overlap, together in grouped]

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
    by_prompt: dict[tuple[ChatTurn, ...], list[int]] = {}
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
    file = pq.ParquetFile(path)
    columns = ["example_id", "prompt", "responses", *(["tools"] if "tools" in file.schema_arrow.names else [])]
    for batch in file.iter_batches(READ_ROWS, columns=columns):
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
        if responses := _usable(row["responses"], recipe):
            kept.append((row["example_id"], responses, _read_prompt(row, responses)))
        else:
            counts[f"without a {recipe.reward.source}"] += 1
    encoded = encode(prompt_format, [prompted for *_, prompted in kept], lengths.max_prompt, lengths.max_response)
    for (example_id, responses, prompted), found in zip(kept, encoded, strict=True):
        if isinstance(found, PromptRefused):
            counts[str(found)] += 1
            continue
        cut = found.is_cut or any(answer.is_cut for answer in found.answers)
        counts["prompts cut"] += found.is_cut
        counts["responses cut"] += sum(answer.is_cut for answer in found.answers)
        counts.update(f"with {name} that the chat template leaves out" for name in found.omitted)
        if cut and recipe.tokens.overlong == "drop":
            counts["over the token limits"] += 1
        elif not all(answer.ids for answer in found.answers) or not found.prompt_ids:
            counts["empty after tokenising"] += 1
        else:
            yield _put_together(example_id, prompted, responses, found)


def _read_prompt(row: dict[str, Any], responses: Sequence[tuple[int, dict[str, Any]]]) -> Prompted:
    turns = tuple(ChatTurn(message["role"], message["content"], message.get("fields") or "") for message in row["prompt"])
    answers = [ChatTurn("assistant", response["content"], response.get("fields") or "") for _, response in responses]
    return Prompted(turns, answers, row.get("tools") or "")


def _put_together(
    example_id: int, prompted: Prompted, responses: Sequence[tuple[int, dict[str, Any]]], found: PromptedIds
) -> Encoded:
    encoded = tuple(
        EncodedResponse(
            array("i", answer.ids), answer.content, response["rating"], response["preference"], number,
            "" if answer.is_cut else turn.fields, answer.overlap,
        )
        for (number, response), turn, answer in zip(responses, prompted.answers, found.answers, strict=True)
    )  # fmt: skip
    return Encoded(example_id, found.turns, array("i", found.prompt_ids), encoded, prompted.tools, found.is_continued)


def _usable(responses: list[dict[str, Any]], recipe: Recipe) -> list[tuple[int, dict[str, Any]]]:
    """Return the responses that have what the reward source needs, with their numbers. Plain fine-tuning needs no labels."""
    column = {"rating": "rating", "preference": "preference", "model": None}[recipe.reward.source]
    if recipe.method is Method.SFT and column == "preference":
        column = None
    return [(number, response) for number, response in enumerate(responses) if column is None or response[column] is not None]
