"""Rows with two responses, whatever they look like: chosen and rejected, or two with a label or votes."""

from collections import Counter
from typing import Any

from app.domain.dataset import NEITHER
from app.ingest import rows
from app.ingest.examples import Candidate, Columns, UnnumberedExample, by_rating, pair, prompt_of, with_system
from app.ingest.messages import (
    ASSISTANT,
    Turn,
    check_prompt,
    conversation,
    message_list,
    number,
    response_text,
    split_answer,
    transcript,
)
from app.ingest.rows import Dropped


def ratings_of(columns: Columns, row: dict[str, Any], *roles: str) -> list[float | None]:
    """Return the numbers of two rating columns; both None unless both can be read."""
    found = [number(columns.get(row, role)) for role in roles]
    return found if None not in found else [None for _ in roles]


def rated_pair(columns: Columns, row: dict[str, Any], prompt: list[Turn], chosen: str, rejected: str) -> UnnumberedExample:
    """Return a pair with its ratings, where the row has them."""
    if not chosen.strip() or not rejected.strip():
        raise Dropped(rows.EMPTY_RESPONSE)
    high, low = ratings_of(columns, row, "rating_chosen", "rating_rejected")
    notes = ("rating tie",) if high is not None and high == low else ()
    return pair(prompt, Candidate(chosen, high), Candidate(rejected, low), notes)


def from_pair(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Prompt, chosen and rejected; responses that repeat the prompt as messages are split."""
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    if holds_prompt(chosen) or holds_prompt(rejected):
        return from_conversations(columns, row)
    prompt_role = "conversations" if columns.has("conversations") else "prompt"
    return rated_pair(columns, row, prompt_of(columns, row, prompt_role), response_text(chosen), response_text(rejected))


def from_alpaca(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Instruction, input, chosen and rejected."""
    prompt = prompt_of(columns, row, "instruction")
    return rated_pair(
        columns, row, prompt, response_text(columns.get(row, "chosen")), response_text(columns.get(row, "rejected"))
    )


def from_transcripts(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Two whole dialogues that differ in the assistant's last turn."""
    return from_dialogues(columns, row, *(split_answer(transcript(cell(columns, row, role))) for role in ("chosen", "rejected")))


def from_conversations(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Two message lists: whole conversations, or only the answers to an explicit prompt."""
    sides = [message_list(cell(columns, row, role)) for role in ("chosen", "rejected")]
    if not any(turn.role != ASSISTANT for side in sides for turn in side):
        opening = conversation(columns.get(row, "prompt"))
        sides = [[*opening, *side] for side in sides]
    return from_dialogues(columns, row, *(split_answer(side) for side in sides))


def from_dialogues(columns: Columns, row: dict[str, Any], *sides: tuple[list[Turn], str]) -> UnnumberedExample:
    """Return a pair out of two (prompt, answer) with the same prompt."""
    (prompt, chosen), (other_prompt, rejected) = sides
    if prompt != other_prompt:
        raise Dropped(rows.PROMPTS_DIFFER)
    return rated_pair(columns, row, with_system(columns, row, check_prompt(prompt)), chosen, rejected)


def cell(columns: Columns, row: dict[str, Any], role: str) -> Any:
    """Return a response's value, which must be there."""
    value = columns.get(row, role)
    if value is None:
        raise Dropped(rows.MISSING_RESPONSE)
    return value


def holds_prompt(value: Any) -> bool:
    """Return whether a response is a message list with more than the assistant's answer."""
    return isinstance(value, list) and len(value) > 1


def from_two(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Two responses with a label, votes or ratings; ties are kept, with preference 0 on both."""
    prompt, first, second = two_answers(columns, row)
    if first.content.strip() == second.content.strip():
        raise Dropped(rows.IDENTICAL)
    if columns.has("rating_a", "rating_b"):
        ratings = ratings_of(columns, row, "rating_a", "rating_b")
        if None in ratings and not columns.has("label") and not columns.has("votes"):
            raise Dropped(rows.MISSING_RATING)
        first, second = first._replace(rating=ratings[0]), second._replace(rating=ratings[1])
    if columns.has("label") or columns.has("votes"):
        return by_votes(columns, row, prompt, first, second)
    return by_rating(prompt, [first, second])


def two_answers(columns: Columns, row: dict[str, Any]) -> tuple[list[Turn], Candidate, Candidate]:
    """Return the prompt and both responses; whole conversations bring their prompt along."""
    values = [columns.get(row, role) for role in ("response_a", "response_b")]
    if not any(holds_prompt(value) for value in values):
        first, second = (Candidate(response_text(value)) for value in values)
        return prompt_of(columns, row), first, second
    (prompt, a), (other_prompt, b) = (split_answer(message_list(value)) for value in values)
    if prompt != other_prompt:
        raise Dropped(rows.PROMPTS_DIFFER)
    return with_system(columns, row, check_prompt(prompt)), Candidate(response_text(a)), Candidate(response_text(b))


def by_votes(columns: Columns, row: dict[str, Any], prompt: list[Turn], first: Candidate, second: Candidate) -> UnnumberedExample:
    """Return what most labels say decides; labels that can't be read don't count, unless none is left."""
    labels = [columns.get(row, "label")] if columns.has("label") else columns.get_all(row, "votes")
    votes = Counter(vote for vote in (read_label(columns, label) for label in labels) if vote is not None)
    if not votes:
        raise Dropped(rows.MISSING_LABEL)
    notes = ("votes disagree",) if len(votes) > 1 else ()
    if votes[1] == votes[-1] or votes[0] >= max(votes[1], votes[-1]):
        return UnnumberedExample(prompt, [answer._replace(preference=NEITHER) for answer in (first, second)], (*notes, "tie"))
    return pair(prompt, *((first, second) if votes[1] > votes[-1] else (second, first)), notes)


def read_label(columns: Columns, value: Any) -> int | None:
    """+1: first is better, -1: second, 0: tie, None: none of the known values."""
    text = label_text(value)
    if text in columns.values("first", "1"):
        return 1
    if text in columns.values("second", "2"):
        return -1
    return 0 if text in columns.values("tie", "0") else None


def label_text(value: Any) -> str:
    """Return a label in the form in which options write it: 1.0 and 1 are "1", True is "true"."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()
