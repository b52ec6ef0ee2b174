"""A row as it comes from a file, and the reasons for which one is left out."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """`line`: from 1, the line (JSON lines, CSV) or the row's number (`Source.numbering`). With a `fault`: it can't be read."""

    line: int
    value: Any
    fault: str = ""


class Dropped(Exception):
    """This row can't be used; the text is the reason, one of those listed here."""


INVALID_JSON = "not valid JSON"
INVALID_UTF8 = "not valid UTF-8"
INVALID_UNICODE = "not valid Unicode (half a surrogate pair)"
INVALID_CSV = "not valid CSV"
NUL = "contains a NUL character"
NAN = "contains NaN or Infinity, which JSON does not have"
NUMBER_RANGE = "contains a number that is too large"
DUPLICATE_KEY = "has the same key twice"
TOO_DEEP = "nested too deeply"
TOO_LONG = "longer than the limit for one row"
TOO_MANY_COLUMNS = "too many columns"
FIELD_COUNT = "has more or fewer fields than the header"
NOT_AN_OBJECT = "not an object with named columns"
MISSING_PROMPT = "no prompt"
MISSING_RESPONSE = "missing response"
MISSING_RATING = "missing or unreadable rating"
MISSING_LABEL = "missing or unknown label"
EMPTY_PROMPT = "empty prompt"
EMPTY_RESPONSE = "empty response"
IDENTICAL = "identical responses"
NOT_TEXT = "a text is not text"
NOT_MESSAGES = "messages can't be read"
UNKNOWN_ROLE = "message with an unknown role"
PROMPTS_DIFFER = "prompt parts differ"
NO_ASSISTANT = "no assistant turn at the end"
LENGTHS_DIFFER = "lists of different length"
ONE_RESPONSE = "fewer than two responses"
TOO_MANY_RESPONSES = "too many responses"
UNRANKED = "replies without ranks"
