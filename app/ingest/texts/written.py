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
STARTS = frozenset('[{a" \t\r\n')
BLANKS = r"(?:\s|\\[nrt])*"
TWICE = re.compile(rf"""\s*"(?:{BLANKS}\[)?{BLANKS}\{{{BLANKS}\\+["']""")  # JSON of JSON
STRING = r"""'(?:\\.|[^'\\])*(?:'|\\?\Z)|"(?:\\.|[^"\\])*(?:"|\\?\Z)"""  # or what is left of one, so that no text is read twice
SIDE_BY_SIDE = re.compile(rf"({STRING})(\s+(?=['\"]))?", re.DOTALL)
PRINTED = re.compile(rf"({STRING})|(\}}\s+(?=\{{))|\barray\(|,\s*dtype=object\s*\)", re.DOTALL)
MOST_PYTHON_CHARS = 2**20


def read_written(text: str) -> Any:
    """Return the list or object of messages that a text is; the text itself where it is none, like an answer in JSON.

    Raises Dropped for a list with roles, or an object with a usual one, that can't be read.
    """
    if text[:1] not in STARTS:
        return text
    if TWICE.match(text):
        inner = read_literal(text)
        return read_written(inner) if isinstance(inner, str) else text
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


def read_literal(text: str, *, of_texts: bool = False) -> Any:
    """Return the value of a text that is JSON, or what Python or numpy print; None for any other.

    `of_texts`: of a list of texts, where those that stand side by side are several, as numpy prints them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > MOST_PYTHON_CHARS:
        return None
    found = evaluate(SIDE_BY_SIDE.sub(part_texts, text) if of_texts else text)
    return evaluate(PRINTED.sub(as_python, text)) if found is None and "}" in text else found


def evaluate(text: str) -> Any:
    """Return the value of a Python literal; None for any other text."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes that Python would write otherwise
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def part_texts(found: re.Match[str]) -> str:
    """Return a text in a list with a comma behind it, where another follows without one."""
    return found[1] + (", " if found[2] else "")


def as_python(found: re.Match[str]) -> str:
    """Return a piece of a printed array as lists have it: numpy puts no commas between its items."""
    return found[1] or ("}, " if found[2] else "")
