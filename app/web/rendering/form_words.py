"""Sentences about settings in the words of the forms: their labels, their options, and links that fill the launch form."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from app.domain.dataset import Shape
from app.domain.errors import StudioError
from app.domain.events import Change
from app.domain.problems import EMPTY, MISSING, PREDICATES, summary
from app.ingest.columns import options_of
from app.web.rendering.fields import RECIPE_FIELDS, write
from app.web.rendering.format import words
from app.web.rendering.wording import LABELS_ELSEWHERE, WHAT_TO_DO, option_text

SWITCHED = {"true": "yes", "false": "no"}  # a recipe's words and the form's
BY_PATH = {field.path: field for field in RECIPE_FIELDS}
_NAMED = re.compile(rf"(set )?\b({'|'.join(re.escape(path) for path in BY_PATH if '.' in path)})\b(?: to (\w+))?")
OPTIONS = sorted({option.name for shape in Shape for option in options_of(shape) if "_" in option.name})  # of a mapping
_OPTION = re.compile(rf"\b({'|'.join(OPTIONS)})\b")


def in_form_words(message: str) -> str:
    """Return a sentence about the settings of a recipe or a mapping, with the form's labels and options in their place."""
    return _OPTION.sub(lambda found: f"“{words(found[1]).capitalize()}”", _NAMED.sub(_name_in_form, message))


def _name_in_form(found: re.Match[str]) -> str:
    verb, path, option = found.groups()
    label = f"“{BY_PATH[path].label}”"
    if path == "reward.accept_inverted" and option == "true":  # the form asks for it by a box
        return f"{'tick ' if verb else ''}{label}"
    return f"{verb or ''}{label}" + (f" to “{option_text(path, SWITCHED.get(option, option))}”" if option else "")


def find_label(path: str) -> str:
    """Return what the form calls a field of the request; "" where no form has a label for it."""
    if path in BY_PATH:
        return BY_PATH[path].label
    words = [word for word in path.split(".") if not word.isdigit()]
    return LABELS_ELSEWHERE.get(words[-1], "") if words else ""


def tell(problem: Mapping[str, Any]) -> str:
    """Return a fault as a sentence that stands alone: `Temperature λ must be greater than 0, not 0.`"""
    path, message = str(problem.get("field") or ""), str(problem["message"])
    label = find_label(path)
    if message in (MISSING, EMPTY) and path in WHAT_TO_DO:
        return WHAT_TO_DO[path]
    if message.startswith(PREDICATES):
        label = label or path.rsplit(".", 1)[-1].replace("_", " ").capitalize() or "The input"
        return f"{label} {message[:1].lower()}{message[1:]}" if message != MISSING else f"{label} is missing: fill it in."
    return f"{label}: {message}" if label else message


def tell_detail(detail: str, problems: Sequence[Mapping[str, Any]]) -> str:
    """Return an error's sentence with the form's label in the place of the first fault's path."""
    if not problems or not str(problems[0]["message"]).startswith(PREDICATES):
        return detail
    first = summary([problems[0]])
    return tell(problems[0]) + detail.removeprefix(first) if detail.startswith(first) else detail


def tell_error(error: StudioError) -> str:
    """Return the same of an error."""
    return tell_detail(error.detail, error.problems)


def clone_address(changes: Sequence[Change], run_id: str) -> str:
    """Return where the launch form is filled with the run's recipe and these changes."""
    return f"/runs/new?{urlencode({'clone': run_id, **{change.field: write(change.value) for change in changes}})}"


def change_in_words(changes: Sequence[Change]) -> str:
    """Return the first of the changes, which the others only follow: `λ = 0.42`."""
    first = changes[0]
    value = write(first.value)
    if first.field == "weights.lambda":
        return f"λ = {value}"
    field = BY_PATH.get(first.field)
    shown = option_text(first.field, value) if field and field.kind in ("select", "switch") else value
    return f"“{field.label if field else first.field}” = {shown}"
