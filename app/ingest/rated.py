"""Rows with one response each, and the grouping of rows that follow each other and share a prompt."""

from typing import Any

from app.domain.dataset import CHOSEN, REJECTED
from app.ingest import rows
from app.ingest.examples import Cells, Columns, UnnumberedExample, by_rating, candidate, prompt_of, with_system
from app.ingest.messages import Turn, check_prompt, conversation, message_list, response, split_answer
from app.ingest.rows import Dropped
from app.ingest.texts.plain import number

TRUE = frozenset({"true", "yes", "good", "desirable", "1"})
FALSE = frozenset({"false", "no", "bad", "undesirable", "0"})


def from_rated(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Return a prompt, a response, and a number or a verdict on it."""
    if columns.has("messages"):
        turns, answer = split_answer(conversation(cells.get("messages")))
        prompt = with_system(cells, check_prompt(turns))
    else:
        prompt, answer = split_response(prompt_of(cells), cells.get("response"))
    rating = number(cells.get("rating")) if columns.has("rating") else None
    verdict = read_verdict(cells.get("label")) if columns.has("label") else None
    if columns.has("rating") and rating is None:
        raise Dropped(rows.MISSING_RATING)
    if columns.has("label") and verdict is None:
        raise Dropped(rows.MISSING_LABEL)
    return UnnumberedExample(prompt, [candidate(answer, rating)._replace(preference=verdict)])


def split_response(prompt: list[Turn], value: Any) -> tuple[list[Turn], Turn]:
    """Return prompt and response; of a response in several messages the last is learned, those before it are prompt."""
    if not isinstance(value, list) or len(value) < 2:
        return prompt, response(value)
    before, answer = split_answer(message_list(value))
    return (before if prompt[-1] in before else [*prompt, *before]), answer


def read_verdict(value: Any) -> int | None:
    """1 for a good response, -1 for a bad one, None where it can't be told."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().lower()
    if text in TRUE:
        return CHOSEN
    return REJECTED if text in FALSE else None


def merge(drafts: list[UnnumberedExample]) -> UnnumberedExample:
    """One example out of several with the same prompt: by rating, best first, or good ones before bad ones."""
    answers = [answer for draft in drafts for answer in draft.answers]
    if len(answers) > 1 and all(answer.rating is not None for answer in answers):
        return by_rating(drafts[0].prompt, answers)
    answers.sort(key=lambda answer: -(answer.preference or 0))
    return UnnumberedExample(drafts[0].prompt, answers, drafts[0].notes)
