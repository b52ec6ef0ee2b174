"""From pydantic's findings to sentences: each fault with its field's dotted path, worded for the person who typed it."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError

from app.domain.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)

MOST_FAULTS = 100  # that are put into words; the others are counted
SHOWN_CHARACTERS = 60  # of what was given
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxlevel, _BRIEFLY.maxdict, _BRIEFLY.maxlist, _BRIEFLY.maxother = 2, 6, 6, SHOWN_CHARACTERS


def fault(field: str, message: str) -> PydanticCustomError:
    """Return an error for a validator to raise about another field than its own; `field` is relative to the validated model."""
    return PydanticCustomError("fault", "{sentence}", {"sentence": message, "field": field})


def at_most(most: int) -> BeforeValidator:
    """Return a validator that refuses an object of more entries before it looks at any of them."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise fault("", f"Must not be longer than {most} entries.")
        return value

    return BeforeValidator(check)


class HasErrors(Protocol):
    def errors(self) -> Sequence[Any]: ...


def problems_of(error: HasErrors, *, skip: int = 0) -> list[dict[str, str]]:
    """Return the first faults as `{"field": dotted path, "message": sentence}`, without the first `skip` parts of each path."""
    return [_problem(item, skip) for item in error.errors()[:MOST_FAULTS]]


def parse(model: type[M], data: Any, error: type[InvalidInput]) -> M:
    """`data` as a `model`; raises `error` with a problem for every field at fault, as far as these are worded."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        problems = problems_of(invalid)
        raise error(summary(problems, invalid.error_count()), problems=problems) from None


def summary(problems: Sequence[Mapping[str, str]], num_faults: int | None = None) -> str:
    """One sentence for several faults: the first in full, with its field, and the others counted, worded or not."""
    field, message = problems[0]["field"], problems[0]["message"]
    first = f"{field} {message[0].lower()}{message[1:]}" if field and message.startswith(PREDICATES) else message
    more = (num_faults or len(problems)) - 1
    return first if not more else f"{first} ({more} more {'field needs' if more == 1 else 'fields need'} a look.)"


PREDICATES = ("Must ", "Is ")  # messages that go on from their field's name
MISSING = "Is missing."
EMPTY = "Must not be empty."
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {  # what was wanted, in words, by the first part of pydantic's name for the fault
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "an object with fields",
    "model": "an object with fields",
    "json": "valid JSON",
}


def _problem(item: Mapping[str, Any], skip: int) -> dict[str, str]:
    context = item.get("ctx") or {}
    path = [_cut(str(part)) for part in item["loc"][skip:]]
    if item["type"] == "fault":
        path += [str(context["field"])] if context["field"] else []
        return {"field": ".".join(path), "message": str(context["sentence"])}
    return {"field": ".".join(path), "message": _sentence(item, context, ".".join(path))}


def _sentence(item: Mapping[str, Any], context: Mapping[str, Any], field: str) -> str:
    """Return what is wrong, to stand beside the field: it goes on from the field's name, or stands alone."""
    kind, got = str(item["type"]), _short(item.get("input"))
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"Must be {words} {_short(context[key])}, not {got}."
    if kind in ("enum", "literal_error"):
        return f"Must be {context['expected']}, not {got}."
    if kind.startswith("union_tag_"):
        tag = context["discriminator"].strip("'")
        known = f" of {context['expected_tags']}, not {_short(context['tag'])}" if "tag" in context else ", which says what it is"
        return f"Must have a {tag}{known}."
    if kind == "missing":
        return MISSING
    if kind == "extra_forbidden":
        return f"There is no setting called {field}; check the spelling."
    if kind in ("string_too_long", "too_long"):
        return f"Must not be longer than {context['max_length']} {'characters' if kind.startswith('string') else 'entries'}."
    if kind in ("string_too_short", "too_short"):
        return EMPTY
    if kind in ("string_pattern_mismatch", "string_unicode"):
        return "The text holds characters that can't be kept (NUL, or half a surrogate pair): remove them."
    if kind == "finite_number":
        return "Must be a finite number."
    if kind == "int_parsing_size":
        return f"Must be a smaller whole number, not {got}."
    wanted = _KINDS.get(kind.split("_")[0])
    if wanted is not None and kind.endswith(("_type", "_parsing", "_from_float", "_invalid")):
        return f"Must be {wanted}, not {got}."
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "Must")
    return message if message.endswith(".") else f"{message}."


def _short(value: Any) -> str:
    """Return what was given as far as one wants to read it, whatever its size."""
    if isinstance(value, float):
        return _cut(f"{value:g}")
    return _cut(repr(value[:SHOWN_CHARACTERS]) if isinstance(value, str | bytes) else _BRIEFLY.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}…"
