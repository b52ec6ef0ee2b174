"""Texts and numbers that can be kept: Unicode without NUL, finite numbers."""

import math
from decimal import Decimal
from typing import Any

from app.domain.texts import is_keepable
from app.ingest import rows
from app.ingest.rows import Dropped

LABEL_CHARS = 200  # longer texts are no labels


def clean_text(value: Any) -> str:
    """Return the text itself, if it can be kept and shown. Raises Dropped."""
    if not isinstance(value, str):
        raise Dropped(rows.NOT_TEXT)
    if "\0" in value:
        raise Dropped(rows.NUL)
    if not value.isascii():
        check_unicode(value)
    return value


def check_unicode(text: str) -> None:
    """Raise Dropped for lone surrogates: those of the JSON itself, or bytes that were not UTF-8 (U+DC80 … U+DCFF)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        smuggled = 0xDC80 <= ord(text[error.start]) <= 0xDCFF
        raise Dropped(rows.INVALID_UTF8 if smuggled else rows.INVALID_UNICODE) from error


def is_label(text: str) -> bool:
    """Return whether a text is short and can be kept."""
    return len(text) <= LABEL_CHARS and is_keepable(text)


def number(value: Any) -> float | None:
    """Return a finite number, also written as text; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None
