"""Rows of CSV: comma, semicolon or tab, quotes doubled, a header with the columns' names."""

import csv
from collections.abc import Iterator

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.unpack import Unpacked, iter_lines
from app.ingest.rows import Row
from app.ingest.texts.plain import LABEL_CHARS, is_label

DELIMITERS = (",", ";", "\t")


def decode_lines(source: Unpacked) -> Iterator[str]:
    """Lines of text; bytes that are not UTF-8 come as lone surrogates, which drop their row later."""
    for line, data in enumerate(iter_lines(source, source.limits.max_row_bytes), start=1):
        if data is None:
            raise DatasetInvalid(
                f"Line {line} is longer than {source.limits.max_row_bytes // 2**20} MiB, the most that a row may have. Shorten "
                "its texts, or leave the row out."
            )
        yield data.decode("utf-8", "surrogateescape") + "\n"


def find_delimiter(header: str) -> str:
    """Return the delimiter that splits the header into the most fields."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def read_header(source: Unpacked) -> list[str]:
    """Return the columns' names, looked up in the first chunk without reading on."""
    first = source.head.decode("utf-8", "replace").lstrip("\r\n").split("\n", 1)[0]
    try:
        return next(csv.reader([first], delimiter=find_delimiter(first)), [])
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


def read_csv(source: Unpacked) -> Iterator[Row]:
    """One row a record; its line is where the record starts."""
    csv.field_size_limit(source.limits.max_row_bytes)
    lines = decode_lines(source)
    skipped, header = next(((n, line) for n, line in enumerate(lines) if line.strip()), (0, ""))
    reader = csv.reader(lines, delimiter=find_delimiter(header), strict=True)
    names = check_header(next(csv.reader([header], delimiter=find_delimiter(header)), []), source.limits.max_columns)
    while True:
        start = reader.line_num + skipped + 2
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
        yield Row(start, dict(zip(names, fields, strict=False)), "" if len(fields) == len(names) else rows.FIELD_COUNT)
