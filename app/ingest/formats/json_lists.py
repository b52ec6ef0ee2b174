"""Rows of JSON that stand one level down: one object with lists of rows, like the splits of a data set."""

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
    buffer, decoder = Buffer(source), RowDecoder()
    number = 0
    buffer.peek()
    buffer.at += 1  # the opening brace
    while buffer.peek() not in ("}", ""):
        key = read_key(buffer, decoder, number + 1)
        if buffer.peek() != "[":
            read_value(buffer, decoder, number + 1)
            noted.add(0, rows.naming(BESIDE_ROWS, key))
        else:
            buffer.at += 1
            if buffer.peek() == "{":
                for row in read_elements(buffer, decoder, number):
                    number = row.line
                    yield in_column(row, key)
            else:
                deque(read_elements(buffer, decoder, number), maxlen=0)
                noted.add(0, rows.naming(BESIDE_ROWS, key))
        if buffer.peek() == ",":
            buffer.at += 1
    if buffer.peek() != "}":
        raise DatasetInvalid(f"Line {buffer.here()}: the file ends before its object does. Write it again.")


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
    """Return whether a file is one object with lists of rows in it, by its start; a row that holds lists itself is none."""
    text = head.decode("utf-8", "ignore")
    decoder, outer = json.JSONDecoder(), set[str]()
    try:
        at = skip_space(text, 1)
        while text[at] == '"':
            key, at = decoder.raw_decode(text, at)
            at = skip_space(text, skip_space(text, at) + 1)
            outer.add(key.lower())
            if outer & ROW_NAMES:
                return False
            if text[at] == "[" and text[inner := skip_space(text, at + 1)] == "{" and are_rows(key, text, inner):
                return True
            _, at = decoder.raw_decode(text, at)
            at = skip_space(text, skip_space(text, at) + 1)
    except (ValueError, IndexError, RecursionError):
        pass
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
