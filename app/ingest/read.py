"""Rows of any file that is taken: the format is told by content, the name is only quoted in error messages."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.csv_rows import read_csv, read_header
from app.ingest.formats.json_rows import is_json_line, read_lines, read_list, read_values
from app.ingest.formats.parquet_rows import ParquetRows
from app.ingest.formats.unpack import PARQUET, Unpacked
from app.ingest.limits import Limits
from app.ingest.rows import Row

Numbering = Literal["line", "row"]


class Source(NamedTuple):
    """An opened file: its format's name, its rows, and where its unpacked bytes are counted."""

    format: str
    rows: Iterator[Row]
    counter: Unpacked | ParquetRows

    @property
    def numbering(self) -> Numbering:
        """What `Row.line` counts: elements of a list may all stand on one line, and Parquet has none."""
        return "line" if self.format.startswith(("jsonl", "csv")) else "row"


@contextmanager
def open_rows(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a file of any format, packed or not. Raises DatasetInvalid or TooLarge."""
    with Unpacked(path, limits) as source:
        packed = ".gz" if source.gzipped else ""
        if not source.head.startswith(PARQUET):
            source.open_text()
            name, found = read_text(source)
            yield Source(name + packed, check_rows(found, limits), source)
        elif not source.gzipped:
            parquet = ParquetRows(path, limits)
            yield Source("parquet", check_rows(iter(parquet), limits), parquet)
        else:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unpacked-") as file:
                source.copy_to(file.file)
                file.flush()
                parquet = ParquetRows(Path(file.name), limits)
                yield Source("parquet.gz", check_rows(iter(parquet), limits), parquet)


def read_text(source: Unpacked) -> tuple[str, Iterator[Row]]:
    """Tell JSON lines, a JSON list, JSON objects and CSV apart by the first lines."""
    head = source.head.lstrip()
    if head[:1] == b"[":
        return "json", read_list(source)
    if head[:1] == b"{":
        lines = [line for line in head.split(b"\n") if line.strip()]
        spread = len(lines) > 1 and not any(is_json_line(line) for line in lines) and is_spread(lines[0])
        return ("json", read_values(source)) if spread else ("jsonl", read_lines(source))
    if len(read_header(source)) > 1:
        return "csv", read_csv(source)
    if any(is_json_line(line) for line in head.split(b"\n")):
        return "jsonl", read_lines(source)
    raise DatasetInvalid(
        "The file is neither JSON lines, a JSON list, CSV with a header, nor Parquet: it starts with "
        f'"{shorten(head)}". Upload one of these, also packed with gzip.'
        if head
        else "The file holds nothing but white space. Upload one that has rows."
    )


def is_spread(line: bytes) -> bool:
    """Return whether a first line looks like the start of an object that goes on over the next lines."""
    return line.rstrip()[-1:] in b"{[,:" or line.strip() == b"{"


def shorten(head: bytes) -> str:
    """Return the first characters of a file, safe to show."""
    text = head.split(b"\n", 1)[0][:40].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "·" for c in text)


def check_rows(found: Iterator[Row], limits: Limits) -> Iterator[Row]:
    """Mark rows that are no objects or have too many columns."""
    for row in found:
        if row.fault:
            yield row
        elif not isinstance(row.value, dict):
            yield Row(row.line, None, rows.NOT_AN_OBJECT)
        elif len(row.value) > limits.max_columns:
            yield Row(row.line, None, rows.TOO_MANY_COLUMNS)
        else:
            yield row
