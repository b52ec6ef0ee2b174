"""The parts that columns can play in each shape, and the check that a mapping fits the file.

`SHAPE_ROLES` and `SHAPE_OPTIONS` are what the mapping form, the REST documentation and the error messages are made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.dataset import ColumnMapping, OptionValue, Shape
from app.domain.errors import DatasetInvalid
from app.ingest import rows as reasons


@dataclass(frozen=True)
class Role:
    """A part that a column can play. `many`: several columns may play it."""

    name: str
    required: bool
    help: str
    many: bool = False


@dataclass(frozen=True)
class ShapeOption:
    """A switch of a shape."""

    name: str
    default: str | float | bool
    help: str


PROMPT = Role("prompt", True, "What was asked: text, a message list, or a Human/Assistant transcript.")
OPTIONAL_PROMPT = Role("prompt", False, "What was asked, where the conversations don't repeat it.")
INPUT = Role("input", False, "A second part of the prompt, put below the first.")
SYSTEM = Role("system", False, "A system message, put before the prompt.")
CHOSEN = Role("chosen", True, "The preferred response: text, a message, or a message list that ends with it.")
REJECTED = Role("rejected", True, "The response that was not preferred, in the same form.")
TOOLS = Role("tools", False, "The tools that messages may call: a list of descriptions, also written as JSON.")
PAIR_RATINGS = (
    Role("rating_chosen", False, "A number for the chosen response: the higher, the better. Dotted for nested fields."),
    Role("rating_rejected", False, "The same for the rejected response."),
)

SHAPE_ROLES: dict[Shape, tuple[Role, ...]] = {
    Shape.PAIR: (PROMPT, INPUT, SYSTEM, CHOSEN, REJECTED, *PAIR_RATINGS, TOOLS),
    Shape.TRANSCRIPT_PAIR: (
        Role("chosen", True, "The whole dialogue with the preferred last answer, as Human/Assistant paragraphs."),
        Role("rejected", True, "The whole dialogue with the other last answer."),
        *PAIR_RATINGS,
    ),
    Shape.CONVERSATION_PAIR: (
        Role("chosen", True, "A message list that ends with the preferred answer."),
        Role("rejected", True, "A message list that ends with the other answer."),
        OPTIONAL_PROMPT,
        SYSTEM,
        *PAIR_RATINGS,
        TOOLS,
    ),
    Shape.SHAREGPT_PAIR: (
        Role("conversations", True, "The dialogue before the answer, as a list of {from, value} or {role, content}."),
        SYSTEM,
        Role("chosen", True, "The preferred answer: a message or text."),
        Role("rejected", True, "The other answer."),
        *PAIR_RATINGS,
        TOOLS,
    ),
    Shape.ALPACA_PAIR: (
        Role("instruction", True, "The task."),
        Role("input", False, "What the task is about, put below it."),
        Role("history", False, "Earlier turns, as a list of [question, answer]."),
        SYSTEM,
        CHOSEN,
        REJECTED,
        *PAIR_RATINGS,
    ),
    Shape.TWO_RESPONSES: (
        OPTIONAL_PROMPT,
        INPUT,
        SYSTEM,
        Role("response_a", True, "The first response: text, a message, or a whole conversation that ends with it."),
        Role("response_b", True, "The second response."),
        Role("label", False, "Which response is better. Give this, votes, or both ratings."),
        Role("votes", False, "Columns with one annotator's label each; the majority counts.", many=True),
        Role("rating_a", False, "A number for the first response: the higher, the better."),
        Role("rating_b", False, "The same for the second response."),
        TOOLS,
    ),
    Shape.RANKED: (
        PROMPT,
        INPUT,
        SYSTEM,
        Role("responses", True, "A list of responses; dotted for a field of each element, as in answers.text."),
        Role("ratings", False, "A list of numbers of the same length, higher is better. Give this or ranks, or best_first."),
        Role("ranks", False, "A list of ranks of the same length, lower is better; rank k becomes the rating -k."),
        TOOLS,
    ),
    Shape.CANDIDATES: (
        Role("prefix", True, "For each candidate, the dialogue before it (all alike)."),
        Role("suffix", True, "The candidates' texts."),
        Role("reward", True, "A number for each candidate: the higher, the better."),
        Role("chosen_index", False, "Which candidate people chose, from 0."),
    ),
    Shape.REPLY_TREE: (
        Role("tree", True, "The root message: an object with text, role and replies; replies carry a rank, 0 is the best."),
    ),
    Shape.RATED: (
        Role("prompt", False, "What was asked. Give prompt and response, or messages."),
        INPUT,
        SYSTEM,
        Role("response", False, "The one response."),
        Role("messages", False, "Instead of both: a message list that ends with the response."),
        Role("rating", False, "A number: the higher, the better. Give this or label."),
        Role("label", False, "Whether the response is good: true or false."),
        TOOLS,
    ),
}

FIRST_DIFFERENCE = ShapeOption(
    "first_difference",
    False,
    "Dialogues that differ before their last answer are cut after the first one that differs, instead of being left out.",
)

LISTS = ShapeOption(
    "lists",
    "",
    'Where chosen and rejected are lists of responses: "pairs" for an example of each with each, "together" for one with all.',
)

SHAPE_OPTIONS: dict[Shape, tuple[ShapeOption, ...]] = {
    Shape.PAIR: (FIRST_DIFFERENCE, LISTS),
    Shape.TRANSCRIPT_PAIR: (FIRST_DIFFERENCE,),
    Shape.CONVERSATION_PAIR: (FIRST_DIFFERENCE,),
    Shape.SHAREGPT_PAIR: (FIRST_DIFFERENCE,),
    Shape.TWO_RESPONSES: (
        ShapeOption("first", "1", "Label values that mean the first response is better, separated by commas."),
        ShapeOption("second", "2", "Label values that mean the second response is better, separated by commas."),
        ShapeOption("tie", "0", "Label values that mean neither is better, separated by commas."),
    ),
    Shape.RANKED: (ShapeOption("best_first", False, "The list itself is the ranking: best response first."),),
    Shape.RATED: (ShapeOption("group_by_prompt", False, "Rows that follow each other and share the prompt become one example."),),
}

STRIP_TEMPLATE = ShapeOption(
    "strip_template", False, "Texts that already carry a chat template become messages without its marks; else these are text."
)
TAGS = (
    ShapeOption("user_tag", "", 'Before what the user says, where dialogues are text under tags: "## Human:".'),
    ShapeOption("assistant_tag", "", 'Before what the assistant says: "## Assistant:".'),
    ShapeOption("system_tag", "", 'Before a system message, where there are some: "## System:".'),
)
LEAVE_OUT = (
    ShapeOption(
        "leave_out_contradicting_ratings", False, "Rows whose own ratings prefer another response than the label are left out."
    ),
    ShapeOption("leave_out_contradictory_pairs", False, "Pairs that stand in the file in both orders are left out, in both."),
    ShapeOption("leave_out_duplicates", False, "Of equal examples the first alone is kept."),
    ShapeOption("leave_out_near_duplicates", False, "Examples that nearly repeat an earlier one are left out."),
)


def options_of(shape: Shape) -> tuple[ShapeOption, ...]:
    """Return a shape's own options, and those of all shapes."""
    texts = () if shape in (Shape.CANDIDATES, Shape.REPLY_TREE) else (STRIP_TEMPLATE, *TAGS)
    return (*SHAPE_OPTIONS.get(shape, ()), *texts, *LEAVE_OUT)


NEEDED_TOGETHER: dict[Shape, tuple[tuple[tuple[str, ...], ...], ...]] = {  # one of each line's alternatives
    Shape.TWO_RESPONSES: ((("label",), ("votes",), ("rating_a", "rating_b")),),
    Shape.RANKED: ((("ratings",), ("ranks",), ("best_first",)),),
    Shape.RATED: ((("prompt", "response"), ("messages",)), (("rating",), ("label",))),
}


_PROMPTS = ("prompt", "instruction", "conversations", "messages", "prefix", "tree")
_RESPONSES = ("chosen", "rejected", "response_a", "response_b", "response", "responses", "messages", "suffix", "tree")
_RATINGS = ("rating", "ratings", "ranks", "reward", "rating_a", "rating_b")
ROLES_OF_REASONS: dict[str, tuple[str, ...]] = {  # why rows are left out, and the parts whose column may be the wrong one
    reasons.MISSING_PROMPT: _PROMPTS,
    reasons.EMPTY_PROMPT: _PROMPTS,
    reasons.MISSING_RESPONSE: _RESPONSES,
    reasons.EMPTY_RESPONSE: _RESPONSES,
    reasons.MISSING_RATING: _RATINGS,
    reasons.MISSING_LABEL: ("label", "votes", "chosen_index"),
    reasons.BAD_TOOLS: ("tools",),
}


def names_of(value: str | list[str]) -> list[str]:
    """Return a role's columns as a list."""
    return [value] if isinstance(value, str) else list(value)


def pick(row: Any, path: str) -> Any:
    """Return the value at a dotted path; a list on the way gives the list of its elements' values; None where there is
    nothing.
    """
    if isinstance(row, dict) and path in row:
        return row[path]
    value = row
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and len(part) < 6:
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, list):
            value = [item.get(part) if isinstance(item, dict) else None for item in value]
        else:
            return None
    return value


def check_mapping(mapping: ColumnMapping, found: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Raise DatasetInvalid with one problem per fault, each with its field (`mapping.columns.chosen`)."""
    roles = {role.name: role for role in SHAPE_ROLES[mapping.shape]}
    problems = [*role_problems(mapping, roles), *column_problems(mapping, found, rows), *option_problems(mapping)]
    if not problems:
        problems = missing_together(mapping)
    if problems:
        raise DatasetInvalid(problems[0]["message"], problems=problems)


def fault(field: str, message: str) -> dict[str, str]:
    return {"field": f"mapping.{field}", "message": message}


def role_problems(mapping: ColumnMapping, roles: dict[str, Role]) -> list[dict[str, str]]:
    """Roles that the shape doesn't know, that are missing, or that got several columns."""
    known = ", ".join(roles)
    problems = []
    for name, columns in mapping.columns.items():
        if name not in roles:
            problems.append(fault(f"columns.{name}", f'The shape {mapping.shape} has no part "{name}"; its parts are {known}.'))
        elif isinstance(columns, list) and not roles[name].many and len(columns) != 1:
            problems.append(fault(f"columns.{name}", f'The part "{name}" takes exactly one column.'))
    for role in roles.values():
        if role.required and not mapping.columns.get(role.name):
            problems.append(
                fault(f"columns.{role.name}", f'The shape {mapping.shape} needs a column for "{role.name}": {role.help}')
            )
    return problems


def column_problems(mapping: ColumnMapping, found: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Columns that the file does not have."""
    listed = ", ".join(name for name in found if "." not in name)[:500]
    return [
        fault(f"columns.{role}", f'There is no column "{path}"; found: {listed}.')
        for role, columns in mapping.columns.items()
        for path in names_of(columns)
        if path not in found and not any(has_value(pick(row, path)) for row in rows)
    ]


def has_value(value: Any) -> bool:
    """Return whether a picked value holds anything."""
    return any(map(has_value, value)) if isinstance(value, list) else value is not None


def option_problems(mapping: ColumnMapping) -> list[dict[str, str]]:
    """Options that the shape doesn't have."""
    known = {option.name: option for option in options_of(mapping.shape)}
    problems = [
        fault(f"options.{name}", message) for name, value in mapping.options.items() if (message := wrong_value(name, value))
    ]
    return problems + [
        fault(f"options.{name}", f'The shape {mapping.shape} has no option "{name}"; it has {", ".join(known)}.')
        for name in mapping.options
        if name not in known
    ]


def wrong_value(name: str, value: OptionValue) -> str:
    """Return what is wrong with an option's value; "" when nothing is."""
    if name == "lists" and value not in ("", "pairs", "together"):
        return f'Lists are read as "pairs" or "together", not as "{value}".'
    return ""


def missing_together(mapping: ColumnMapping) -> list[dict[str, str]]:
    """Groups of alternatives of which none is given."""
    given = {role for role, columns in mapping.columns.items() if columns} | {k for k, v in mapping.options.items() if v}
    return [
        fault("columns", f"The shape {mapping.shape} needs {' or '.join(' and '.join(group) for group in alternatives)}.")
        for alternatives in NEEDED_TOGETHER.get(mapping.shape, ())
        if not any(given.issuperset(group) for group in alternatives)
    ]
