"""Message lists written as text: JSON in a cell or a string, however it is spaced, or as Python prints a list."""

import ast
import json
import re
import warnings
from typing import Any

from app.ingest import rows
from app.ingest.rows import Dropped

BEGINS = re.compile(r"""\s*(?:array\()?(\[?)\s*\{\s*['"]""")
HAS_ROLE = re.compile(r"""['"](?:role|from)['"]\s*:""")
KNOWN_ROLE = re.compile(r"""['"](?:role|from)['"]\s*:\s*['"](?:user|human|assistant|gpt|system|tool)['"]""")
NEAR = 500  # characters from the start
STARTS = frozenset("[{a \t\r\n")
MOST_PYTHON_CHARS = 2**20


def read_written(text: str) -> Any:
    """Return the list or object of messages that a text is; the text itself where it is none, like an answer in JSON.

    Raises Dropped for a list with roles, or an object with a usual one, that can't be read.
    """
    if text[:1] not in STARTS:
        return text
    begins = BEGINS.match(text)
    if begins is None or not HAS_ROLE.search(text):
        return text
    found = read_literal(text)
    if found is None and (is_written_list(text) or KNOWN_ROLE.search(text, 0, NEAR)):
        raise Dropped(rows.NOT_WRITTEN)
    return found if isinstance(found, dict | list) else text


def is_written_list(text: str) -> bool:
    """Return whether a text looks like a list of messages, whichever of their keys stands first."""
    begins = BEGINS.match(text)
    return begins is not None and begins[1] == "[" and HAS_ROLE.search(text, 0, NEAR) is not None


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
