"""Message lists written as text: JSON in a cell or a string, however it is spaced, or as Python prints a list."""

import ast
import json
import re
import warnings
from typing import Any

from app.ingest import rows
from app.ingest.rows import Dropped

KEYS = "role|from|content|value|text|tool_calls"
WRITTEN_LIST = re.compile(rf"""\s*(?:array\()?\[\s*\{{\s*['"](?:{KEYS})['"]\s*:""")
WRITTEN_MESSAGE = re.compile(rf"""\s*\{{\s*['"](?:{KEYS})['"]\s*:""")
HAS_ROLE = re.compile(r"""['"](?:role|from)['"]\s*:""")
STARTS = frozenset("[{a \t\r\n")
MOST_PYTHON_CHARS = 2**20


def read_written(text: str) -> Any:
    """Return the list or object of messages that a text is; the text itself where it is none, like an answer in JSON.

    Raises Dropped for a list with roles that can't be read.
    """
    if text[:1] not in STARTS:
        return text
    if WRITTEN_LIST.match(text):
        found = read_literal(text)
        if not isinstance(found, list) and HAS_ROLE.search(text, 0, 500):
            raise Dropped(rows.NOT_WRITTEN)
        return found if isinstance(found, list) else text
    if WRITTEN_MESSAGE.match(text):
        found = read_literal(text)
        return found if isinstance(found, dict) else text
    return text


def read_literal(text: str) -> Any:
    """Return the value of a text that is JSON or a Python literal; None for any other."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > MOST_PYTHON_CHARS:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes that Python would write otherwise
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
