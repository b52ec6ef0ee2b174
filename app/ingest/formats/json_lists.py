"""Rows of JSON that stand one or two levels down: one object with lists of rows, like the splits of a data set."""

import json
import re
from collections import deque
from collections.abc import Iterator

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.json_rows import SPACE, Buffer, RowDecoder, read_elements, read_value
from app.ingest.formats.unpack import Unpacked
from app.ingest.rows import Lines, Row

KEY_COLUMNS = ("split", "list")  # what the key of a list of rows becomes
BESIDE_ROWS = "beside the lists of rows, and not used:"
LIST_NAMES = frozenset(
    (
        "train",
        "test",
        "validation",
        "valid",
        "dev",
        "eval",
        "data",
        "dataset",
        "rows",
        "examples",
        "instances",
        "items",
        "records",
        "samples",
        "entries",
    )
)
ROW_NAMES = frozenset(
    ("prompt", "chosen", "rejected", "question", "instruction", "query", "conversations", "conversation", "messages", "response",
     "responses", "response_1", "response_a", "response_j", "completion", "output", "answers")
)  # fmt: skip


def read_lists(source: Unpacked, noted: Lines) -> Iterator[Row]:
    """Yield the elements of the lists of one object, each with its list's key in a column; what else it holds is noted."""
    buffer = Buffer(source)
    buffer.peek()
    yield from read_object(buffer, RowDecoder(), noted, 0)


def read_object(buffer: Buffer, decoder: RowDecoder, noted: Lines, number: int, outer: str = "") -> Iterator[Row]:
    """Yield the rows of the object that begins here, numbered on from `number`: in lists, or each under its number; those of an
    object in it, like a split's, get the key of that one.
    """
    buffer.at += 1  # the opening brace
    while buffer.peek() not in ("}", ""):
        key = read_key(buffer, decoder, number + 1)
        for row in read_under(buffer, decoder, noted, number, key, outer):
            number = row.line
            yield row
        if buffer.peek() == ",":
            buffer.at += 1
    if buffer.peek() != "}":
        raise DatasetInvalid(f"Line {buffer.here()}: the file ends before its object does. Write it again.")
    buffer.at += 1


def read_under(buffer: Buffer, decoder: RowDecoder, noted: Lines, number: int, key: str, outer: str) -> Iterator[Row]:
    """Yield the rows under one key; what holds none is noted."""
    mark = buffer.peek()
    if mark == "{" and key.isdecimal():
        row = read_value(buffer, decoder, number + 1)
        yield in_column(row, outer) if outer else row
        return
    if mark == "{" and not outer and key.lower() in LIST_NAMES:
        yield from read_object(buffer, decoder, noted, number, key)
        return
    if mark == "[":
        buffer.at += 1
        if buffer.peek() == "{":
            for row in read_elements(buffer, decoder, number):
                yield in_column(row, outer or key)
            return
        deque(read_elements(buffer, decoder, number), maxlen=0)
    else:
        read_value(buffer, decoder, number + 1)
    noted.add(0, rows.naming(BESIDE_ROWS, key))


def read_key(buffer: Buffer, decoder: RowDecoder, number: int) -> str:
    """Return the key that stands here, and go behind its colon."""
    key = read_value(buffer, decoder, number).value
    if not isinstance(key, str) or buffer.peek() != ":":
        raise DatasetInvalid(f"Line {buffer.here()}: a key and its colon must stand here. Write the file again.")
    buffer.at += 1
    return key


def in_column(row: Row, key: str, names: tuple[str, ...] = KEY_COLUMNS) -> Row:
    """Return a row with where it stood, a list's key or a file's name, in the first column that it doesn't have itself."""
    if not isinstance(row.value, dict):
        return row
    name = next((name for name in names if name not in row.value), "")
    return row._replace(value={**row.value, name: key}) if name else row


def holds_lists(head: bytes) -> bool:
    """Return whether a file is one object with rows in it, by its start; a row that holds lists itself is none."""
    try:
        return holds_rows(head.decode("utf-8", "ignore"), 0)
    except (ValueError, IndexError, RecursionError):
        return False


def holds_rows(text: str, at: int, is_inner: bool = False) -> bool:
    """Return whether the object that begins here holds rows in lists, under their numbers, or in one object like a split.

    Raises ValueError or IndexError where the text ends before that is known.
    """
    decoder, outer = json.JSONDecoder(), set[str]()
    at = skip_space(text, at + 1)
    while text[at] == '"':
        key, at = decoder.raw_decode(text, at)
        at = skip_space(text, skip_space(text, at) + 1)
        outer.add(key.lower())
        if outer & ROW_NAMES:
            return False
        if text[at] == "[" and text[inner := skip_space(text, at + 1)] == "{" and are_rows(key, text, inner):
            return True
        if text[at] == "{" and (key.isdecimal() or (not is_inner and key.lower() in LIST_NAMES and holds_rows(text, at, True))):
            return True
        _, at = decoder.raw_decode(text, at)
        at = skip_space(text, skip_space(text, at) + 1)
    return False


def are_rows(key: str, text: str, at: int) -> bool:
    """Return whether the objects of a list are rows: by its name, or by the names in the first one."""
    try:
        first, _ = json.JSONDecoder().raw_decode(text, at)
        names = {str(name).lower() for name in first}
    except ValueError:  # longer than what is known of the file
        names = {name.lower() for name in re.findall(r'"(\w+)"\s*:', text[at:])}
    return not names & {"role", "from"} - ROW_NAMES and (key.lower() in LIST_NAMES or bool(names & ROW_NAMES))


def skip_space(text: str, at: int) -> int:
    """Return where the next character is that is not white space."""
    while text[at] in SPACE:
        at += 1
    return at
