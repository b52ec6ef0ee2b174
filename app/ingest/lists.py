"""Rows that hold several responses: ranked or scored lists, candidate lists, reply trees."""

from typing import Any

from app.domain.dataset import CHOSEN, REJECTED
from app.ingest import rows
from app.ingest.examples import Candidate, Cells, Columns, UnnumberedExample, by_rating, candidate, prompt_of
from app.ingest.messages import ROLES, Turn, check_prompt, message_list, response
from app.ingest.rows import Dropped
from app.ingest.texts.plain import clean_text, number
from app.ingest.texts.written import read_literal


def rating_answers(texts: list[Any], ratings: list[Any]) -> list[Candidate]:
    """Responses with a number each; equal texts count once, with their first number."""
    if len(texts) != len(ratings):
        raise Dropped(rows.LENGTHS_DIFFER)
    found: dict[tuple[str, str | None], Candidate] = {}
    for text, rating in zip(texts, ratings, strict=True):
        value = number(rating)
        if value is None:
            raise Dropped(rows.MISSING_RATING)
        answer = response(text)
        found.setdefault((answer.content.strip(), answer.fields), candidate(answer, value))
    if len(texts) > 1 and len(found) == 1:
        raise Dropped(rows.IDENTICAL)
    if len(found) < 2:
        raise Dropped(rows.ONE_RESPONSE)
    return list(found.values())


def list_of(value: Any, reason: str) -> list[Any]:
    """Return a list that has something in it, also written as text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = read_literal(value, of_texts=True)
    if not isinstance(value, list) or not value:
        raise Dropped(reason)
    return value


def negated(ranks: list[Any]) -> list[float | None]:
    """Ranks as ratings: the lower the rank, the higher the number."""
    return [None if (value := number(rank)) is None else 0.0 - value for rank in ranks]


def from_ranked(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Return a list of responses with ratings or ranks, or in order of quality."""
    texts = list_of(cells.get("responses"), rows.MISSING_RESPONSE)
    if columns.has("ratings"):
        ratings = list_of(cells.get("ratings"), rows.MISSING_RATING)
    elif columns.has("ranks"):
        ratings = negated(list_of(cells.get("ranks"), rows.MISSING_RATING))
    else:
        ratings = [-float(rank) for rank in range(len(texts))]
    return by_rating(prompt_of(cells), rating_answers(texts, ratings))


def from_candidates(columns: Columns, cells: Cells) -> UnnumberedExample:
    """Prefix, suffix and reward lists; the index of the people's choice, where given, decides the preference."""
    prefixes = list_of(cells.get("prefix"), rows.MISSING_PROMPT)
    texts = list_of(cells.get("suffix"), rows.MISSING_RESPONSE)
    rewards = list_of(cells.get("reward"), rows.MISSING_RATING)
    if not len(prefixes) == len(texts) == len(rewards):
        raise Dropped(rows.LENGTHS_DIFFER)
    dialogues = [check_prompt(message_list(prefix)) for prefix in prefixes]
    if any(dialogue != dialogues[0] for dialogue in dialogues):
        raise Dropped(rows.PROMPTS_DIFFER)
    answers = rating_answers(texts, rewards)
    if not columns.has("chosen_index"):
        return by_rating(dialogues[0], answers)
    index = number(cells.get("chosen_index"))
    if index is None or index not in range(len(texts)):
        raise Dropped(rows.MISSING_LABEL)
    wanted = response(texts[int(index)]).content.strip()
    return by_choice(dialogues[0], answers, wanted)


def by_choice(prompt: list[Turn], answers: list[Candidate], wanted: str) -> UnnumberedExample:
    """Return the chosen response first, the others after it, best rating first."""
    marked = [a._replace(preference=CHOSEN if a.content.strip() == wanted else REJECTED) for a in answers]
    marked.sort(key=lambda answer: (-(answer.preference or 0), -(answer.rating or 0.0)))
    return UnnumberedExample(prompt, marked)


def from_tree(_: Columns, cells: Cells) -> list[UnnumberedExample]:
    """One example per message that has at least two ranked assistant replies; its prompt is the path to it."""
    root = cells.get("tree")
    if not isinstance(root, dict):
        raise Dropped(rows.MISSING_PROMPT)
    drafts: list[UnnumberedExample] = []
    reasons: list[str] = []
    open_nodes: list[tuple[dict[str, Any], list[Turn]]] = [(root, [])]
    while open_nodes:
        node, path = open_nodes.pop()
        turn, replies = node_turn(node), live_replies(node)
        if turn is None:
            continue
        path = [*path, turn]
        open_nodes.extend((reply, path) for reply in reversed(replies))
        answers = [reply for reply in replies if ROLES.get(str(reply.get("role")).lower()) == "assistant"]
        if turn.role != "user" or not answers:
            continue
        try:
            drafts.append(from_replies(path, answers))
        except Dropped as dropped:
            reasons.append(str(dropped))
    if not drafts:
        raise Dropped(reasons[0] if reasons else rows.MISSING_RESPONSE)
    skipped = tuple(f"skipped message: {reason}" for reason in reasons)
    return [drafts[0]._replace(notes=(*drafts[0].notes, *skipped)), *drafts[1:]]


def node_turn(node: dict[str, Any]) -> Turn | None:
    """Return the message of a node; None when it can't be read, which leaves out what hangs below it."""
    role = ROLES.get(str(node.get("role")).lower())
    try:
        return Turn(role, clean_text(node.get("text"))) if role else None
    except Dropped:
        return None


def live_replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a node's replies without deleted ones."""
    replies = node.get("replies")
    return [r for r in replies if isinstance(r, dict) and r.get("deleted") is not True] if isinstance(replies, list) else []


def from_replies(path: list[Turn], replies: list[dict[str, Any]]) -> UnnumberedExample:
    """Return an example out of the ranked replies to a message; unranked ones are left out."""
    ranked = [reply for reply in replies if number(reply.get("rank")) is not None]
    if len(replies) > 1 and not ranked:
        raise Dropped(rows.UNRANKED)
    if len(ranked) < 2:
        raise Dropped(rows.ONE_RESPONSE)
    texts = [reply.get("text") for reply in ranked]
    return by_rating(check_prompt(path), rating_answers(texts, list(negated([r.get("rank") for r in ranked]))))
