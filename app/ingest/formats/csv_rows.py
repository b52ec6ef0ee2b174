"""Rows of CSV: comma, semicolon, tab or bar, quotes doubled, a header with the columns' names."""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.unpack import Unpacked, iter_lines
from app.ingest.rows import Lines, Row
from app.ingest.texts.plain import LABEL_CHARS, is_label

DELIMITERS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)  # which Excel writes, and takes away again
NOT_A_NUMBER = frozenset(("nan", "NaN", "<NA>"))
EMPTIED = "cells that read nan, NaN or <NA>, taken as empty"


def decode_lines(source: Unpacked) -> Iterator[str]:
    """Lines of text; bytes that are not UTF-8 come as lone surrogates, which drop their row later."""
    for line, data in enumerate(iter_lines(source, source.limits.max_row_bytes), start=1):
        if data is None:
            raise DatasetInvalid(
                f"Line {line} is longer than {source.limits.max_row_bytes // 2**20} MiB, the most that a row may have. Shorten "
                "its texts, or leave the row out."
            )
        yield data.decode("utf-8", "surrogateescape") + "\n"


class Header(NamedTuple):
    """The line with the columns' names: its delimiter, and how many lines stand before it and with it."""

    text: str
    delimiter: str
    num_lines: int


def find_header(lines: Iterable[str]) -> Header:
    """Return the first line that is not blank, or the one after it where that only names the delimiter."""
    delimiter, number = "", 0
    for number, line in enumerate(lines, start=1):
        if named := SEPARATOR_LINE.fullmatch(line):
            delimiter = named[1]
        elif line.strip():
            return Header(line, delimiter or find_delimiter(line), number)
    return Header("", ",", number)


def find_delimiter(header: str) -> str:
    """Return the delimiter that splits the header into the most fields."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def read_header(source: Unpacked) -> list[str]:
    """Return the columns' names, looked up in the first chunk without reading on."""
    header = find_header(line + "\n" for line in source.head.decode("utf-8", "replace").split("\n"))
    try:
        return next(csv.reader([header.text], delimiter=header.delimiter), [])
    except csv.Error:
        return []


def check_header(header: list[str], limits_columns: int) -> list[str]:
    """Names without surrounding blanks; blank ones are numbered."""
    if len(header) > limits_columns:
        raise DatasetInvalid(
            f"Line 1: the header has {len(header):,} columns; at most {limits_columns:,} are taken. "
            "Keep those with prompts, responses and ratings."
        )
    if not all(map(is_label, header)):
        raise DatasetInvalid(
            f"Line 1: a column's name is longer than {LABEL_CHARS} characters or holds some that can't be shown. "
            "The first line must hold the columns' names."
        )
    names = [name.strip() or f"column_{index}" for index, name in enumerate(header, start=1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DatasetInvalid(f'Line 1: the header names the column "{repeated[0]}" twice. Give each column its own name.')
    return names


def read_csv(source: Unpacked, noted: Lines) -> Iterator[Row]:
    """One row a record; its line is where the record starts. Cells that read "nan" are empty ones, and noted."""
    csv.field_size_limit(source.limits.max_row_bytes)
    lines = decode_lines(source)
    header = find_header(lines)
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    names = check_header(next(csv.reader([header.text], delimiter=header.delimiter), []), source.limits.max_columns)
    while True:
        start = reader.line_num + header.num_lines + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field larger" in str(error) or "unexpected end" in str(error):
                raise DatasetInvalid(
                    f"Line {start}: a quoted field opens here and is not closed by the end of the file, or within "
                    f'{source.limits.max_row_bytes // 2**20} MiB. Write a quote inside a field as "".'
                ) from error
            yield Row(start, None, rows.INVALID_CSV)
            continue
        if not any(fields):
            continue
        if not NOT_A_NUMBER.isdisjoint(fields):
            noted.add(start, EMPTIED)
            fields = ["" if cell in NOT_A_NUMBER else cell for cell in fields]
        yield Row(start, dict(zip(names, fields, strict=False)), "" if len(fields) == len(names) else rows.FIELD_COUNT)
