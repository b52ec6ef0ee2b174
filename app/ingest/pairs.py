"""Rows with two responses, whatever they look like: chosen and rejected, or two with a label or votes."""

import re
from collections import Counter
from typing import Any

from app.domain.dataset import CHOSEN, NEITHER, REJECTED
from app.ingest import rows
from app.ingest.examples import (
    Candidate,
    Cells,
    Columns,
    UnnumberedExample,
    are_alike,
    by_rating,
    candidate,
    pair,
    prompt_of,
    with_system,
)
from app.ingest.messages import (
    ASSISTANT,
    TOOL,
    Turn,
    check_prompt,
    conversation,
    message_list,
    response,
    split_answer,
    transcript,
)
from app.ingest.rows import Dropped
from app.ingest.texts.plain import clean_text, number
from app.ingest.texts.written import read_literal

LIST_START = re.compile(r"""\s*\[\s*['"]""")
WRITTEN_TEXTS = (
    'responses are lists of texts written as text, and learned as they stand: set lists to "pairs" or "together" to read them'
)
TORN = "skipped response: it stands among the chosen and among the rejected ones"
SKIPPED_PAIR = f"skipped pair: {rows.IDENTICAL}"


def ratings_of(cells: Cells, *roles: str) -> list[float | None]:
    """Return the numbers of two rating columns; both None unless both can be read."""
    found = [number(cells.get(role)) for role in roles]
    return found if None not in found else [None for _ in roles]


def rated_pair(cells: Cells, prompt: list[Turn], chosen: Turn, rejected: Turn) -> UnnumberedExample:
    """Return a pair with its ratings, where the row has them."""
    high, low = ratings_of(cells, "rating_chosen", "rating_rejected")
    notes = ("rating tie",) if high is not None and high == low else ()
    return pair(prompt, candidate(chosen, high), candidate(rejected, low), notes)


def from_pair(columns: Columns, cells: Cells) -> UnnumberedExample | list[UnnumberedExample]:
    """Prompt, chosen and rejected; responses that repeat or go on with the prompt as messages are split."""
    chosen, rejected = cells.get("chosen"), cells.get("rejected")
    if how := columns.options.get("lists"):
        return from_lists(cells, str(how))
    if holds_prompt(chosen) or holds_prompt(rejected):
        return from_conversations(columns, cells)
    prompt_role = "conversations" if columns.has("conversations") else "prompt"
    draft = rated_pair(cells, prompt_of(cells, prompt_role), response(chosen), response(rejected))
    return draft._replace(notes=(*draft.notes, WRITTEN_TEXTS)) if is_texts(chosen) and is_texts(rejected) else draft


def is_texts(value: Any) -> bool:
    """Return whether a response is a list of texts written as text."""
    if not isinstance(value, str) or not LIST_START.match(value):
        return False
    found = read_literal(value, of_texts=True)
    return isinstance(found, list) and all(isinstance(item, str) for item in found)


def from_lists(cells: Cells, how: str) -> list[UnnumberedExample]:
    """Lists of chosen and of rejected responses: an example of each with each, or one with all."""
    good, bad = ([candidate(response(item)) for item in answers_in(present(cells, role))] for role in ("chosen", "rejected"))
    prompt = prompt_of(cells)
    if how == "together":
        return [all_together(prompt, good, bad)]
    pairs = [(one, other) for one in good for other in bad]
    differ = [(one, other) for one, other in pairs if not are_alike(one, other)]
    if not differ:
        raise Dropped(rows.IDENTICAL)
    drafts = [pair(prompt, one, other) for one, other in differ]
    return [drafts[0]._replace(notes=(SKIPPED_PAIR,) * (len(pairs) - len(differ))), *drafts[1:]]


def all_together(prompt: list[Turn], good: list[Candidate], bad: list[Candidate]) -> UnnumberedExample:
    """Return one example of all responses; those on both sides tell nothing and are left out."""
    torn = [one for one in good if any(are_alike(one, other) for other in bad)]
    good, bad = ([one for one in side if not any(are_alike(one, other) for other in torn)] for side in (good, bad))
    if not good or not bad:
        raise Dropped(rows.IDENTICAL)
    marked = [*(one._replace(preference=CHOSEN) for one in good), *(one._replace(preference=REJECTED) for one in bad)]
    return UnnumberedExample(prompt, marked, (TORN,) * len(torn))


def answers_in(value: Any) -> list[Any]:
    """Return the responses of a cell: of a list, also written as text; one alone is a list of one."""
    found = read_literal(value, of_texts=True) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    answers = found if isinstance(found, list) else [value]
    if not answers:
        raise Dropped(rows.MISSING_RESPONSE)
    return answers


def from_alpaca(_: Columns, cells: Cells) -> UnnumberedExample:
    """Instruction, input, chosen and rejected."""
    prompt = prompt_of(cells, "instruction")
    return rated_pair(cells, prompt, response(cells.get("chosen")), response(cells.get("rejected")))


def from_transcripts(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Two whole dialogues that differ in the assistant's last turn."""
    sides = [present(cells, role) for role in ("chosen", "rejected")]
    return from_dialogues(columns, cells, *(transcript(side) if isinstance(side, str) else message_list(side) for side in sides))


def from_conversations(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Two message lists: whole conversations, or only what follows an explicit prompt."""
    return from_dialogues(columns, cells, *whole_sides(cells, "chosen", "rejected"))


def whole_sides(cells: Cells, *roles: str) -> list[list[Turn]]:
    """Return both conversations from their start: sides that begin after the prompt get it put before them."""
    sides = [turns_of(present(cells, role)) for role in roles]
    opening = cells.get("prompt", cells.get("conversations"))
    if not any(goes_on(side) for side in sides):
        return sides
    if opening is None:
        if all(turn.role == ASSISTANT for side in sides for turn in side):
            raise Dropped(rows.MISSING_PROMPT)
        return sides
    start = conversation(opening)
    return sides if any(start[-1] in side for side in sides) else [[*start, *side] for side in sides]


def goes_on(side: list[Turn]) -> bool:
    """Return whether a side begins where a prompt ends: with the assistant or a tool."""
    return side[0].role in (ASSISTANT, TOOL)


def turns_of(value: Any) -> list[Turn]:
    """Return a side's messages; a text is the assistant's."""
    return [Turn(ASSISTANT, clean_text(value))] if isinstance(value, str) else message_list(value)


def from_dialogues(columns: Columns, cells: Cells, first: list[Turn], second: list[Turn]) -> UnnumberedExample:
    """Return a pair out of two conversations: the last message of each is learned, all before it is the prompt of both."""
    if columns.options.get("first_difference") is True:
        first, second = until_difference(first, second)
    (prompt, chosen), (other, rejected) = split_answer(first), split_answer(second)
    check_alike(prompt, other)
    return rated_pair(cells, with_system(cells, check_prompt(prompt)), chosen, rejected)


def until_difference(first: list[Turn], second: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    """Return both conversations up to the first message in which they differ; as they are, when they don't."""
    for count, (one, other) in enumerate(zip(first, second, strict=False), start=1):
        if one != other:
            return first[:count], second[:count]
    return first, second


def check_alike(prompt: list[Turn], other: list[Turn]) -> None:
    """Raise Dropped for prompts that differ; the reason tells whether only the assistant's turns do."""
    if prompt == other:
        return
    asked, other_asked = ([turn for turn in turns if turn.role != ASSISTANT] for turns in (prompt, other))
    raise Dropped(rows.ANSWERS_DIFFER if asked == other_asked else rows.PROMPTS_DIFFER)


def present(cells: Cells, role: str) -> Any:
    """Return a response's value, which must be there."""
    value = cells.get(role)
    if value is None:
        raise Dropped(rows.MISSING_RESPONSE)
    return value


def holds_prompt(value: Any) -> bool:
    """Return whether a response is a message list with more than the assistant's answer."""
    return isinstance(value, list) and len(value) > 1


def from_two(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Two responses with a label, votes or ratings; ties are kept, with preference 0 on both."""
    prompt, first, second = two_answers(cells)
    if are_alike(first, second):
        raise Dropped(rows.IDENTICAL)
    if columns.has("rating_a", "rating_b"):
        ratings = ratings_of(cells, "rating_a", "rating_b")
        if None in ratings and not columns.has("label") and not columns.has("votes"):
            raise Dropped(rows.MISSING_RATING)
        first, second = first._replace(rating=ratings[0]), second._replace(rating=ratings[1])
    if columns.has("label") or columns.has("votes"):
        return by_votes(columns, cells, prompt, first, second)
    return by_rating(prompt, [first, second])


def two_answers(cells: Cells) -> tuple[list[Turn], Candidate, Candidate]:
    """Return the prompt and both responses; whole conversations bring their prompt along."""
    values = [cells.get(role) for role in ("response_a", "response_b")]
    if not any(holds_prompt(value) for value in values):
        first, second = (candidate(response(value)) for value in values)
        return prompt_of(cells), first, second
    (prompt, a), (other, b) = (split_answer(side) for side in whole_sides(cells, "response_a", "response_b"))
    check_alike(prompt, other)
    return with_system(cells, check_prompt(prompt)), candidate(a), candidate(b)


def by_votes(columns: Columns, cells: Cells, prompt: list[Turn], first: Candidate, second: Candidate) -> UnnumberedExample:
    """Return what most labels say decides; labels that can't be read don't count, unless none is left."""
    labels = [cells.get("label")] if columns.has("label") else cells["votes"]
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
