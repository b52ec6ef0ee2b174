"""Stage 1: read the examples, turn them into token ids, cut what is too long, and set prompts aside for evaluation."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from app.domain.errors import DatasetInvalid, RecipeInvalid
from app.domain.memory import fit_window
from app.domain.recipe import Method, Recipe, TokenSettings
from worker.models.encode import encode
from worker.models.prompts import Conversation, Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused, TemplateExceeded
from worker.stages.conversations import find_conversations, find_opening
from worker.stages.split import split

READ_ROWS = 512
ROWS_NAMED, MOST_REASON = 20, 300


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
    opening: int = 0  # stands for the first user turn of the whole prompt (see find_opening)
    conversation: int = 0  # the same for examples that belong together (see find_conversations)

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
class PreparationNotes:
    """What was cut or left out: counts by reason, with the first rows of each, and the share of texts that were cut."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[int]] = field(default_factory=dict)
    cut_prompts: tuple[int, int] = (0, 0)  # how many were cut, of how many
    cut_responses: tuple[int, int] = (0, 0)
    num_rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # rows, by the reason

    def leave_out(self, reason: str, row: int) -> None:
        self.left_out[reason] += 1
        self.add(reason, row)

    def tell_left_out(self) -> tuple[int, int, str]:
        """Return how many rows are left out, of how many, and in words why most of them are."""
        most = max(self.left_out, key=lambda reason: self.left_out[reason], default="")
        return self.left_out.total(), self.num_rows, most and self._tell(most)

    def add(self, reason: str, row: int) -> None:
        self.counts[reason] += 1
        rows = self.rows.setdefault(reason, [])
        if len(rows) < ROWS_NAMED and row not in rows:
            rows.append(row)

    def tell(self) -> str:
        """Return all reasons with their counts and rows, in words; "" when nothing was left out."""
        return "; ".join(map(self._tell, sorted(self.counts)))

    def _tell(self, reason: str) -> str:
        count, rows = self.counts[reason], self.rows[reason]
        more = ", …" if count > len(rows) else ""
        return f"{reason}: {count} ({'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows))}{more})"


@dataclass
class Prepared:
    train: list[Encoded]
    held_out: list[Encoded]
    num_equal_pairs: int
    num_pairs: int
    notes: PreparationNotes = field(default_factory=PreparationNotes)


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
    recipe: Recipe,
    path: Path,
    prompt_format: PromptFormat,
    lengths: Lengths,
    progress: Callable[[int, int], None],
    reward_formats: Sequence[PromptFormat] = (),
    check: Callable[[], None] = lambda: None,
) -> Prepared:
    """Encode the data set in `path` (the internal Parquet form) and split it; raises DatasetInvalid when nothing is left.

    What a reward model's own template refuses (`reward_formats`) is left out as well. `check` is called now and then.
    """
    notes = PreparationNotes()
    examples: list[Encoded] = []
    prompts: list[tuple[ChatTurn, ...]] = []  # whole, where an example's own may be cut
    notes.num_rows = total = _count_rows(path, recipe.max_examples)
    done = 0
    for rows in _read(path, total):
        encoded = list(_encode_rows(rows, recipe, prompt_format, lengths, notes))
        kept = _keep_judged(encoded, [each for each in reward_formats if each.chat], notes)
        examples += [row.example for row in kept]
        prompts += [row.prompt for row in kept]
        done += len(rows)
        progress(done, total)
    if not examples:
        raise DatasetInvalid(
            f"No example of the data set can be used ({notes.tell() or 'it has no rows'}). "
            "Check the recipe's reward source, token limits and prompt format."
        )
    examples = _place(examples, prompts, check)
    pairs = [(a, b) for e in examples for a in e.responses for b in e.responses if a.preference == 1 and b.preference == -1]
    train, held_out = split(examples, recipe.evaluation.share, recipe.evaluation.seed, recipe.evaluation.split)
    return Prepared(train, held_out, sum(a.ids == b.ids for a, b in pairs), len(pairs), notes)


def _place(examples: Sequence[Encoded], prompts: Sequence[tuple[ChatTurn, ...]], check: Callable[[], None]) -> list[Encoded]:
    """Return the examples with their openings and conversations, of whole prompts."""
    openings = list(map(find_opening, prompts))
    answers = [[response.content for response in example.responses] for example in examples]
    conversations = find_conversations(prompts, openings, answers, check)
    placed = zip(examples, openings, conversations, strict=True)
    return [replace(example, opening=opening, conversation=conversation) for example, opening, conversation in placed]


def decode_answers(prompt_format: PromptFormat, prompts: Sequence[Encoded], ids: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of answers to these prompts."""
    return [
        prompt_format.decode_response(answer, example.prompt_ids, example.turns[-1].content)
        if example.is_continued
        else prompt_format.decode_response(answer)
        for example, answer in zip(prompts, ids, strict=True)
    ]


def _count_rows(path: Path, limit: int | None) -> int:
    try:
        num_rows: int = pq.ParquetFile(path).metadata.num_rows
    except (OSError, ValueError) as error:
        raise DatasetInvalid(f"The prepared data set {path.name} can't be read ({error}). Upload the data again.") from error
    return num_rows if limit is None else min(limit, num_rows)


def _read(path: Path, total: int) -> Iterator[list[dict[str, Any]]]:
    left = total
    file = pq.ParquetFile(path)
    columns = [name for name in ("example_id", "line", "prompt", "responses", "tools") if name in file.schema_arrow.names]
    for batch in file.iter_batches(READ_ROWS, columns=columns):
        rows = batch.to_pylist()[:left]
        left -= len(rows)
        if rows:
            yield rows
        if left <= 0:
            return


class _EncodedRow(NamedTuple):
    line: int
    example: Encoded
    prompt: tuple[ChatTurn, ...]  # whole, where the example's own is cut


def _encode_rows(
    rows: list[dict[str, Any]], recipe: Recipe, prompt_format: PromptFormat, lengths: Lengths, notes: PreparationNotes
) -> Iterator[_EncodedRow]:
    kept = []
    for row in rows:
        if responses := _usable(row["responses"], recipe):
            kept.append((row, responses, _read_prompt(row, responses)))
        else:
            notes.leave_out(f"without a {recipe.reward.source}", _line_of(row))
    try:
        encoded = encode(prompt_format, [prompted for *_, prompted in kept], lengths.max_prompt, lengths.max_response)
    except TemplateExceeded as exceeded:
        raise exceeded.in_row(_line_of(kept[exceeded.number][0])) from exceeded
    for (row, responses, prompted), found in zip(kept, encoded, strict=True):
        line = _line_of(row)
        if isinstance(found, PromptRefused):
            notes.leave_out(str(found)[:MOST_REASON], line)
            continue
        _note(found, line, notes)
        cut = found.is_cut or any(answer.is_cut for answer in found.answers)
        if cut and recipe.tokens.overlong == "drop":
            notes.leave_out("over the token limits", line)
        elif not all(answer.ids for answer in found.answers) or not found.prompt_ids:
            notes.leave_out("empty after tokenising", line)
        else:
            yield _EncodedRow(line, _put_together(row["example_id"], prompted, responses, found), prompted.turns)


def _note(found: PromptedIds, line: int, notes: PreparationNotes) -> None:
    num_cut = sum(answer.is_cut for answer in found.answers)
    notes.cut_prompts = (notes.cut_prompts[0] + found.is_cut, notes.cut_prompts[1] + 1)
    notes.cut_responses = (notes.cut_responses[0] + num_cut, notes.cut_responses[1] + len(found.answers))
    for reason in ["prompts cut"] * found.is_cut + ["responses cut"] * num_cut:
        notes.add(reason, line)
    for name in found.omitted:
        notes.add(f"with {name} that the prompt format does not write", line)


def _line_of(row: dict[str, Any]) -> int:
    return int(row.get("line", row["example_id"]))


def _keep_judged(
    encoded: Sequence[_EncodedRow], reward_formats: Sequence[PromptFormat], notes: PreparationNotes
) -> list[_EncodedRow]:
    """Return the rows that every reward model's template takes; what one says against an example is noted."""
    refused: set[int] = set()
    for reward_format in reward_formats:
        asked = [(k, Conversation(e.turns, r.as_turn(), e.tools)) for k, (_, e, _) in enumerate(encoded) for r in e.responses]
        try:
            texts = reward_format.write_conversations([conversation for _, conversation in asked])
        except TemplateExceeded as exceeded:
            raise exceeded.in_row(encoded[asked[exceeded.number][0]].line) from exceeded
        for (k, _), text in zip(asked, texts, strict=True):
            if isinstance(text, PromptRefused) and k not in refused:
                refused.add(k)
                notes.leave_out(f"of the reward model, {text}"[:MOST_REASON], encoded[k].line)
    return [row for k, row in enumerate(encoded) if k not in refused]


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
