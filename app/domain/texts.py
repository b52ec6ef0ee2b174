"""Texts that every database keeps and every page shows: without NUL, lone surrogates and, in a line, control characters."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from app.domain.problems import fault

UNKEEPABLE = re.compile("[\0\ud800-\udfff]")  # PostgreSQL's text and JSON refuse them
CONTROL = re.compile("[\0-\x1f\ud800-\udfff]")


def is_keepable(text: str) -> bool:
    """Return whether every database can hold the text."""
    return not UNKEEPABLE.search(text)


def make_keepable(value: Any) -> Any:
    """Return the value with U+FFFD for every character in its texts that a database can't hold."""
    if isinstance(value, str):
        return UNKEEPABLE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {make_keepable(key): make_keepable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [make_keepable(part) for part in value]
    return value


def refuse_control(value: Any) -> Any:
    """Return the value; raises pydantic's error where it is a text with a character that no line has."""
    if isinstance(value, str) and CONTROL.search(value):
        raise fault("", "The text holds control characters: remove them.")
    return value


ONE_LINE = BeforeValidator(refuse_control)  # last in an Annotated with other bounds
Line = Annotated[str, ONE_LINE]
Reference = Annotated[str, Field(min_length=1, max_length=400), ONE_LINE]  # the id of a thing, or where it lies
Keepable = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # pydantic itself refuses lone surrogates where there is a pattern
