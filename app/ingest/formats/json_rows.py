"""Rows of JSON: one object a line, objects one after another, or one list. Never more than a row and a chunk in memory.

Python's own parser is used, made strict: NaN, repeated keys and numbers out of range mark the row as faulty, with its line.
"""

import codecs
import json
import math
from collections.abc import Iterator
from typing import Any

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.unpack import Unpacked, iter_lines
from app.ingest.rows import Row

SPACE = " \t\r\n"


class RowDecoder:
    """Decodes a value and remembers what was wrong inside it."""

    def __init__(self) -> None:
        self.fault = ""
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_constant=self._constant,
            parse_int=self._integer,
            parse_float=self._float,
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            self.fault = self.fault or rows.DUPLICATE_KEY
        return value

    def _constant(self, _: str) -> None:
        self.fault = self.fault or rows.NAN

    def _integer(self, digits: str) -> int | float:
        return int(digits) if len(digits) < 19 else self._float(digits)

    def _float(self, digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            self.fault = self.fault or rows.NUMBER_RANGE
        return value

    def decode_line(self, line: int, data: bytes) -> Row:
        """Return the row of one line."""
        self.fault = ""
        try:
            value = self._json.decode(data.decode())
        except UnicodeDecodeError:
            return Row(line, None, rows.INVALID_UTF8)
        except RecursionError:
            return Row(line, None, rows.TOO_DEEP)
        except ValueError:
            return Row(line, None, rows.INVALID_JSON)
        return Row(line, value, self.fault)

    def decode_at(self, text: str, start: int) -> tuple[Any, int]:
        """Return the value at `start` and where it ends; ValueError when it is broken or not complete."""
        self.fault = ""
        return self._json.raw_decode(text, start)


def read_lines(source: Unpacked) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    decoder = RowDecoder()
    for line, data in enumerate(iter_lines(source, source.limits.max_row_bytes), start=1):
        if data is None:
            yield Row(line, None, rows.TOO_LONG)
        elif data and not data.isspace():
            yield decoder.decode_line(line, data)


class Buffer:
    """A window of text over the file that grows only as far as one row needs."""

    def __init__(self, source: Unpacked) -> None:
        self.source = source
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # such texts are dropped row by row

    def grow(self, size: int) -> None:
        """Forget what was read and append at least `size` more bytes, or what is left."""
        self.line += self.text.count("\n", 0, self.at)
        parts = [self.text[self.at :]]
        self.at = 0
        while size > 0 and not self.ended:
            data = self.source.read()
            self.ended = not data
            parts.append(self._decoder.decode(data, self.ended))
            size -= len(data)
        self.text = "".join(parts)

    def peek(self) -> str:
        """Return the next character that is not white space; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self.grow(1)

    def here(self) -> int:
        """Return the line of the current place."""
        return self.line + self.text.count("\n", 0, self.at)


def read_value(buffer: Buffer, decoder: RowDecoder, number: int) -> Row:
    """Return the next value, as row `number`; what is broken here ends the reading, since nothing marks where the next row
    starts.
    """
    limit = buffer.source.limits.max_row_bytes
    while True:
        try:
            value, end = decoder.decode_at(buffer.text, buffer.at)
        except RecursionError as error:
            raise DatasetInvalid(
                f"Line {buffer.here()} (row {number}): the JSON is {rows.TOO_DEEP}. Leave the row out, or keep only its texts."
            ) from error
        except ValueError as error:
            failure, end = error, len(buffer.text)
        else:
            if end < len(buffer.text) or buffer.ended:
                buffer.at = end
                return Row(number, value, decoder.fault)
            failure = ValueError("cut off")
        if len(buffer.text) - buffer.at > limit and not buffer.ended:
            raise DatasetInvalid(
                f"Line {buffer.here()}: row {number} is broken JSON or longer than {limit // 2**20} MiB. "
                "Put one object per row into a list or on lines of their own."
            )
        if buffer.ended:
            raise DatasetInvalid(
                f"Line {buffer.here()}: row {number} is not valid JSON ({describe(failure, buffer)}). "
                "Write the file again, or leave the row out."
            )
        buffer.grow(max(2**18, len(buffer.text) - buffer.at))


def describe(failure: ValueError, buffer: Buffer) -> str:
    """Return what the parser said, with the line in the file."""
    if isinstance(failure, json.JSONDecodeError):
        line = buffer.line + buffer.text.count("\n", 0, failure.pos)
        return f"{failure.msg[:1].lower()}{failure.msg[1:]}, line {line}"
    return "the file ends too early"


def read_list(source: Unpacked) -> Iterator[Row]:
    """Yield the elements of one top-level list."""
    buffer, decoder = Buffer(source), RowDecoder()
    buffer.peek()
    buffer.at += 1  # the opening bracket
    yield from read_elements(buffer, decoder, 0)
    if mark := buffer.peek():
        raise DatasetInvalid(
            f"Line {buffer.here()}: more text ({json.dumps(mark)} …) follows the end of the list. "
            "Put all rows into one list, or one object on each line."
        )


def read_elements(buffer: Buffer, decoder: RowDecoder, number: int) -> Iterator[Row]:
    """Yield the elements of the list whose bracket was just read, numbered on from `number`."""
    if buffer.peek() == "]":
        buffer.at += 1
        return
    while True:
        number += 1
        buffer.peek()
        yield read_value(buffer, decoder, number)
        mark = buffer.peek()
        buffer.at += 1
        if mark == "]":
            return
        if mark != ",":
            what = json.dumps(mark) if mark else "the end of the file"
            raise DatasetInvalid(
                f'Line {buffer.here()}: after row {number} comes {what} where "," or "]" must stand. Write the list again.'
            )


def read_values(source: Unpacked) -> Iterator[Row]:
    """Objects one after another, each over several lines."""
    buffer, decoder = Buffer(source), RowDecoder()
    number = 0
    while buffer.peek():
        number += 1
        yield read_value(buffer, decoder, number)


def is_json_line(line: bytes) -> bool:
    """Return whether a line is a complete JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
