"""Rows with one response each, and the grouping of rows that follow each other and share a prompt."""

from typing import Any

from app.domain.dataset import CHOSEN, REJECTED
from app.ingest import rows
from app.ingest.examples import Candidate, Columns, UnnumberedExample, by_rating, prompt_of, with_system
from app.ingest.messages import check_prompt, conversation, number, response_text, split_answer
from app.ingest.rows import Dropped

TRUE = frozenset({"true", "yes", "good", "desirable", "1"})
FALSE = frozenset({"false", "no", "bad", "undesirable", "0"})


def from_rated(columns: Columns, row: dict[str, Any]) -> UnnumberedExample:
    """Return a prompt, a response, and a number or a verdict on it."""
    if columns.has("messages"):
        turns, text = split_answer(conversation(columns.get(row, "messages")))
        prompt = with_system(columns, row, check_prompt(turns))
        text = response_text(text)
    else:
        prompt, text = prompt_of(columns, row), response_text(columns.get(row, "response"))
    rating = number(columns.get(row, "rating")) if columns.has("rating") else None
    verdict = read_verdict(columns.get(row, "label")) if columns.has("label") else None
    if columns.has("rating") and rating is None:
        raise Dropped(rows.MISSING_RATING)
    if columns.has("label") and verdict is None:
        raise Dropped(rows.MISSING_LABEL)
    return UnnumberedExample(prompt, [Candidate(text, rating, verdict)])


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
