"""Which shape is this file? Certain, or not at all: whatever fits two shapes, or none, is left to the mapping form.

A shape is recognised by well-known column names together with the kinds of their values in the first rows.
"""

import re
from collections.abc import Callable

from app.domain.dataset import ColumnMapping, Shape
from app.ingest.columns import SHAPE_ROLES
from app.ingest.survey import (
    BOOLEAN,
    LISTS,
    MESSAGE,
    MESSAGES,
    NUMBER,
    NUMBERS,
    OBJECT,
    OBJECTS,
    TEXT,
    TEXTS,
    TRANSCRIPT,
    TURNS,
    Survey,
)
from app.ingest.texts.tagged import find_tags

Found = dict[str, str | list[str]]

PROMPT_NAMES = ("prompt", "question", "instruction", "query", "input", "user_input", "conversations", "conversation", "messages")
PAIR_NAMES = (("chosen", "rejected"), ("response_j", "response_k"), ("chosen_response", "rejected_response"))
TWO_NAMES = tuple(
    (f"{noun}{joint}{first}", f"{noun}{joint}{second}")
    for noun in ("response", "output", "answer", "completion")
    for joint in ("", "_")
    for first, second in (("1", "2"), ("a", "b"), ("0", "1"))
)
LABEL_NAMES = ("label", "preference", "winner", "better", "choice", "better_response", "better_response_id", "overall_preference")
VOTE_NAME = re.compile(r"(?:annotator|vote|rater|label)_?\d+", re.IGNORECASE)
RESPONSE_NAMES = ("response", "completion", "answer", "output", "generation")
RATING_NAMES = ("rating", "score", "reward", "stars", "overall_rating", "overall_score")
VERDICT_NAMES = ("label", "kto_tag", "thumbs_up", "liked", "desirable", "is_good", "good")
RATING_PAIRS = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"),
    ("rating_chosen", "rating_rejected"), ("chosen_rating", "rejected_rating"),
)  # fmt: skip
ORDINARY = re.compile(
    r"(?:.*_)?(?:id|idx|index|number|line|count|length|num|timestamp|date|year|seed|tokens?)(?:_.*)?", re.IGNORECASE
)


def detect(survey: Survey) -> ColumnMapping | None:
    """Return the mapping of a file whose shape is certain; None when it isn't."""
    finders: tuple[Callable[[Survey], ColumnMapping | None], ...] = (
        find_pair, find_two, find_ranked, find_candidates, find_tree, find_rated,
    )  # fmt: skip
    found = [mapping for finder in finders if (mapping := finder(survey)) is not None]
    return with_tools(survey, found[0]) if len(found) == 1 else None


def with_tools(survey: Survey, mapping: ColumnMapping) -> ColumnMapping:
    """Return the mapping with the column of the tools' descriptions, where the shape has a part for it."""
    takes = any(role.name == "tools" for role in SHAPE_ROLES[mapping.shape])
    if not takes or not survey.columns.get("tools") or not survey.columns["tools"].is_only(OBJECTS, TEXT, OBJECT):
        return mapping
    return mapping.model_copy(update={"columns": {**mapping.columns, "tools": "tools"}})


def only(survey: Survey, names: tuple[str, ...]) -> str | None:
    """Return the one column among these names; None when there is none or more than one."""
    found = [name for name in survey.top() if name.lower() in names and survey.kind(name) != "empty"]
    return found[0] if len(found) == 1 else None


def only_pair(survey: Survey, pairs: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    """Return the one pair of columns that are both there."""
    found = [pair for pair in pairs if pair[0] in survey.columns and pair[1] in survey.columns]
    return found[0] if len(found) == 1 else None


def find_prompt(survey: Survey, kinds: tuple[str, ...] = (TEXT, TRANSCRIPT, MESSAGES)) -> Found | None:
    """Return the columns of the prompt: exactly one candidate, or an instruction with its input; {} when there is no
    candidate.
    """
    names = [name for name in survey.top() if name.lower() in PROMPT_NAMES]
    system = [name for name in ("system", "system_prompt") if survey.kind(name) == TEXT]
    extra: Found = {"system": system[0]} if len(system) == 1 else {}
    if sorted(names) == ["input", "instruction"]:
        return {"prompt": "instruction", "input": "input", **extra}
    if not names:
        return {}
    return {"prompt": names[0], **extra} if len(names) == 1 and survey.kind(names[0]) in kinds else None


def find_ratings(survey: Survey) -> Found:
    """Ratings of chosen and rejected, also one level down, where exactly one pair of such columns exists."""
    found: list[tuple[str, str]] = []
    for parent in ["", *(f"{name}." for name in survey.top() if survey.kind(name) == OBJECT)]:
        for chosen, rejected in RATING_PAIRS:
            pair = (parent + chosen, parent + rejected)
            if all(name in survey.columns and survey.columns[name].is_only(NUMBER) for name in pair):
                found.append(pair)
    return {"rating_chosen": found[0][0], "rating_rejected": found[0][1]} if len(found) == 1 else {}


def find_pair(survey: Survey) -> ColumnMapping | None:
    """Chosen and rejected, in any of their five forms."""
    names = only_pair(survey, PAIR_NAMES)
    if names is None:
        return None
    if any(names[0] != chosen and chosen in survey.columns and rejected in survey.columns for chosen, rejected in PAIR_NAMES):
        return None
    columns: Found = {"chosen": names[0], "rejected": names[1], **find_ratings(survey)}
    kinds = {survey.kind(name) for name in names}
    if kinds == {MESSAGES}:
        return find_conversation_pair(survey, columns)
    prompt = find_prompt(survey)
    if kinds == {TEXTS} and prompt and "prompt" in prompt:
        return ColumnMapping(shape=Shape.PAIR, columns={**prompt, **columns}, options={"lists": "pairs"})
    if prompt is None or not kinds <= {TEXT, TRANSCRIPT, MESSAGE} or (MESSAGE in kinds and len(kinds) > 1):
        return None
    if not prompt:
        return find_transcript_pair(survey, columns, names)
    source = str(prompt.pop("prompt"))
    if source == "instruction":
        history: Found = {"history": "history"} if survey.kind("history") == LISTS else {}
        return ColumnMapping(shape=Shape.ALPACA_PAIR, columns={"instruction": source, **prompt, **history, **columns})
    if source in ("conversations", "conversation", "messages"):
        return ColumnMapping(shape=Shape.SHAREGPT_PAIR, columns={"conversations": source, **prompt, **columns})
    return ColumnMapping(shape=Shape.PAIR, columns={"prompt": source, **prompt, **columns})


def find_transcript_pair(survey: Survey, columns: Found, names: tuple[str, str]) -> ColumnMapping | None:
    """Whole dialogues as text, under the usual tags or under others that all of them have."""
    if all(survey.columns[name].is_only(TRANSCRIPT) for name in names):
        return ColumnMapping(shape=Shape.TRANSCRIPT_PAIR, columns=columns)
    texts = [str(row[name]) for row in survey.sample for name in names if row.get(name)]
    tags = find_tags(texts)
    if tags is None or not all(text.lstrip().startswith(tags.user) and tags.assistant in text for text in texts):
        return None
    options = {"user_tag": tags.user, "assistant_tag": tags.assistant}
    return ColumnMapping(shape=Shape.TRANSCRIPT_PAIR, columns=columns, options=options)


def find_conversation_pair(survey: Survey, columns: Found) -> ColumnMapping | None:
    """Message lists; a column named prompt is the only explicit prompt that is taken."""
    repeats = all(
        len(row[str(columns[side])]) > 1
        for row in survey.sample
        for side in ("chosen", "rejected")
        if has_list(row, columns, side)
    )
    explicit: Found = {"prompt": "prompt"} if survey.kind("prompt") in (TEXT, TRANSCRIPT, MESSAGES) else {}
    if not repeats and not explicit:
        return None
    return ColumnMapping(shape=Shape.CONVERSATION_PAIR, columns={**explicit, **columns})


def has_list(row: dict[str, object], columns: Found, side: str) -> bool:
    """Return whether a row holds a list in this column."""
    return isinstance(row.get(str(columns[side])), list)


def find_two(survey: Survey) -> ColumnMapping | None:
    """Two numbered responses and a label, or several annotators' labels, whose values tell which is which."""
    names, prompt = only_pair(survey, TWO_NAMES), find_prompt(survey)
    if names is None or not prompt or not all(survey.kind(name) in (TEXT, MESSAGE, MESSAGES) for name in names):
        return None
    votes = [name for name in survey.top() if VOTE_NAME.fullmatch(name)]
    labels = [name for name in survey.top() if name.lower() in LABEL_NAMES]
    if len(labels) + bool(votes) != 1:
        return None
    judges: Found = {"votes": votes} if votes else {"label": labels[0]}
    values = set().union(*(survey.columns[name].values for name in votes or labels))
    words = find_words(values, names)
    if words is None:
        return None
    first, second, tie = words
    columns: Found = {**prompt, "response_a": names[0], "response_b": names[1], **judges}
    return ColumnMapping(shape=Shape.TWO_RESPONSES, columns=columns, options={"first": first, "second": second, "tie": tie})


def find_words(values: set[str], names: tuple[str, str]) -> tuple[str, str, str] | None:
    """Return which label values mean first, second and tie; None when the values leave a doubt."""
    ties = {"tie", "draw", "equal", "neither", "both", "tie (bothbad)"}
    suffixes = (names[0][-1], names[1][-1])
    for first, second in (names, suffixes, ("a", "b"), ("model_a", "model_b"), ("first", "second"), ("1", "2")):
        extra = values - {first, second}
        if first in values | {second} and (first, second) != ("1", "2") and {first, second} & values and extra <= ties:
            return first, second, ",".join(sorted(ties))
        if (first, second) == ("1", "2") and suffixes != ("0", "1") and "2" in values and extra <= ties | {"0"}:
            return first, second, ",".join(["0", *sorted(ties)])
    return None


def find_ranked(survey: Survey) -> ColumnMapping | None:
    """Return a list of texts beside one list of numbers, or a list of objects with one text and one rank or score."""
    prompt = find_prompt(survey)
    if not prompt:
        return None
    texts = [name for name in survey.columns if survey.kind(name) == TEXTS and known(name, (*RESPONSE_NAMES, "text"))]
    numbers = [name for name in survey.columns if survey.kind(name) == NUMBERS]
    ranks = [name for name in numbers if known(name, ("rank",))]
    ratings = [name for name in numbers if known(name, RATING_NAMES)]
    if len(texts) != 1 or len(ranks) + len(ratings) != 1 or len(numbers) != 1:
        return None
    order: Found = {"ranks": ranks[0]} if ranks else {"ratings": ratings[0]}
    return ColumnMapping(shape=Shape.RANKED, columns={**prompt, "responses": texts[0], **order})


def known(name: str, names: tuple[str, ...]) -> bool:
    """Return whether the last part of a name, in singular or plural, is one of these."""
    last = name.rsplit(".", 1)[-1].lower()
    return last in names or last.removesuffix("s") in names


def find_candidates(survey: Survey) -> ColumnMapping | None:
    """Prefix, suffix and reward lists."""
    kinds = [survey.kind(name) for name in ("prefix", "suffix", "reward")]
    if kinds[0] not in (TURNS, LISTS) or kinds[1:] != [TEXTS, NUMBERS]:
        return None
    choice: Found = {"chosen_index": "sft_index"} if survey.kind("sft_index") == NUMBER else {}
    return ColumnMapping(shape=Shape.CANDIDATES, columns={"prefix": "prefix", "suffix": "suffix", "reward": "reward", **choice})


def find_tree(survey: Survey) -> ColumnMapping | None:
    """One object with text, role and replies."""
    roots = [
        name
        for name in survey.top()
        if any(isinstance(row.get(name), dict) and {"text", "role", "replies"} <= row[name].keys() for row in survey.sample)
    ]
    return ColumnMapping(shape=Shape.REPLY_TREE, columns={"tree": roots[0]}) if len(roots) == 1 else None


def find_rated(survey: Survey) -> ColumnMapping | None:
    """One response and one number or boolean that can only be its rating."""
    if only_pair(survey, PAIR_NAMES) or only_pair(survey, TWO_NAMES):
        return None
    judged = find_judgement(survey)
    if judged is None:
        return None
    response, prompt = only(survey, RESPONSE_NAMES), find_prompt(survey)
    if prompt and response and survey.columns[response].is_only(TEXT, MESSAGE, MESSAGES):
        return ColumnMapping(shape=Shape.RATED, columns={**prompt, "response": response, **judged})
    if prompt and not response and survey.kind(str(prompt["prompt"])) == MESSAGES:
        messages = prompt.pop("prompt")
        return ColumnMapping(shape=Shape.RATED, columns={"messages": messages, **prompt, **judged})
    return None


def find_judgement(survey: Survey) -> Found | None:
    """Return the one rating or verdict; None when any other number could be meant as well."""
    numbers = [name for name in survey.top() if survey.kind(name) == NUMBER and not ORDINARY.fullmatch(name)]
    verdicts = [name for name in survey.top() if name.lower() in VERDICT_NAMES and is_verdict(survey, name)]
    if len(verdicts) == 1 and not numbers:
        return {"label": verdicts[0]}
    if not verdicts and len(numbers) == 1 and numbers[0].lower() in RATING_NAMES:
        return {"rating": numbers[0]}
    return None


def is_verdict(survey: Survey, name: str) -> bool:
    """Return whether a column holds true and false, also as words."""
    return survey.columns[name].is_only(BOOLEAN) or survey.columns[name].values in ({"true", "false"}, {"true"}, {"false"})


def candidate_shapes(survey: Survey) -> list[Shape]:
    """Return the shapes that could be meant, the likelier ones first, for the mapping form."""
    kinds = {survey.kind(name) for name in survey.columns}
    likely = [
        shape
        for shape, wanted in (
            (Shape.PAIR, {TEXT, MESSAGES}),
            (Shape.TRANSCRIPT_PAIR, {TRANSCRIPT}),
            (Shape.CONVERSATION_PAIR, {MESSAGES}),
            (Shape.RATED, {NUMBER, BOOLEAN}),
            (Shape.TWO_RESPONSES, {NUMBER, TEXT}),
            (Shape.RANKED, {TEXTS, NUMBERS}),
            (Shape.REPLY_TREE, {OBJECT}),
        )
        if kinds & wanted
    ]
    return [*likely, *(shape for shape in Shape if shape not in likely)]
