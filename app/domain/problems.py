"""From pydantic's findings to sentences: each fault with its field's dotted path, worded for the person who typed it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from app.domain.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)


def fault(field: str, message: str) -> PydanticCustomError:
    """An error for a validator to raise about another field than its own; `field` is relative to the validated model."""
    return PydanticCustomError("fault", "{sentence}", {"sentence": message, "field": field})


class HasErrors(Protocol):
    def errors(self) -> Sequence[Any]: ...


def problems_of(error: HasErrors, *, skip: int = 0) -> list[dict[str, str]]:
    """The faults as `{"field": dotted path, "message": sentence}`; the first `skip` parts of each path are left out."""
    return [_problem(item, skip) for item in error.errors()]


def parse(model: type[M], data: Any, error: type[InvalidInput]) -> M:
    """`data` as a `model`; raises `error` with a problem for every field at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as invalid:
        problems = problems_of(invalid)
        raise error(summary(problems), problems=problems) from None


def summary(problems: Sequence[Mapping[str, str]]) -> str:
    """One sentence for several faults: the first in full, the others counted."""
    first = problems[0]["message"]
    more = len(problems) - 1
    return first if not more else f"{first} ({more} more {'field needs' if more == 1 else 'fields need'} a look.)"


def _problem(item: Mapping[str, Any], skip: int) -> dict[str, str]:
    context = item.get("ctx") or {}
    path = [str(part) for part in item["loc"][skip:]]
    if item["type"] == "fault":
        path += [str(context["field"])] if context["field"] else []
        return {"field": ".".join(path), "message": str(context["sentence"])}
    field = ".".join(path)
    return {"field": field, "message": _sentence(item, context, field or "the whole")}


_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _sentence(item: Mapping[str, Any], context: Mapping[str, Any], field: str) -> str:
    kind, got = item["type"], _short(item.get("input"))
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{field} must be {words} {context[key]:g}, not {got}."
    if kind in ("enum", "literal_error"):
        return f"{field} must be {context['expected']}, not {got}."
    if kind == "missing":
        return f"{field} is missing."
    if kind == "extra_forbidden":
        return f"There is no setting called {field}; check the spelling."
    if kind in ("string_too_long", "too_long"):
        return f"{field} is longer than {context['max_length']} characters."
    if kind in ("string_too_short", "too_short"):
        return f"{field} must not be empty."
    if kind == "finite_number":
        return f"{field} must be a finite number."
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", f"{field} must be")
    return message if message.endswith(".") else f"{message}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
