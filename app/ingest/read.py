"""Rows of any file that is taken: the format is told by content, the name is only quoted in error messages."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol

from app.domain.errors import DatasetInvalid
from app.ingest import rows
from app.ingest.formats.archives import Archive, find_archive
from app.ingest.formats.arrow_rows import FILE, STREAM, ArrowRows
from app.ingest.formats.csv_rows import read_csv, read_header
from app.ingest.formats.json_lists import holds_lists, in_column, read_lists
from app.ingest.formats.json_rows import is_json_line, read_lines, read_list, read_values
from app.ingest.formats.parquet_rows import ParquetRows
from app.ingest.formats.unpack import PARQUET, Unpacked
from app.ingest.limits import Limits
from app.ingest.rows import Lines, Row

Numbering = Literal["line", "row"]
ONE_NAME = re.compile(r"[A-Za-z_][\w-]{0,60}")
FILE_COLUMNS = ("file", "shard")  # what an archive's file becomes
BESIDE_SHARDS = "in the archive, and not read as rows:"


class Counter(Protocol):
    """Where unpacked bytes are counted."""

    @property
    def bytes_read(self) -> int: ...


class Source(NamedTuple):
    """An opened file: its format's name, its rows, where its unpacked bytes are counted, what was noted while reading."""

    format: str
    rows: Iterator[Row]
    counter: Counter
    noted: Lines

    @property
    def numbering(self) -> Numbering:
        """What `Row.line` counts: elements of a list may all stand on one line, and Parquet has none."""
        return "line" if self.format.startswith(("jsonl", "csv")) else "row"


@contextmanager
def open_rows(path: Path, limits: Limits) -> Iterator[Source]:
    """Open a file of any format, packed or not, or an archive of such files. Raises DatasetInvalid or TooLarge."""
    kind = find_archive(path)
    if not kind:
        with open_file(path, limits, Lines()) as source:
            yield source
        return
    with Archive(kind, path, limits) as archive:
        shards = Shards(archive)
        yield Source(f"{kind} of {len(archive.names)} {shards.format}", check_rows(iter(shards), limits), shards, shards.noted)


@contextmanager
def open_file(path: Path, limits: Limits, noted: Lines) -> Iterator[Source]:
    """Open one file that is no archive."""
    with Unpacked(path, limits) as source:
        packed = ".gz" if source.gzipped else ""
        table = find_table(source.head)
        if table is None:
            source.open_text()
            name, found = read_text(source, noted)
            yield Source(name + packed, check_rows(found, limits), source, noted)
        elif not source.gzipped:
            columns = table(path, limits)
            yield Source(columns.kind.lower(), check_rows(iter(columns), limits), columns, noted)
        else:
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".unpacked-") as file:
                source.copy_to(file.file)
                file.flush()
                columns = table(Path(file.name), limits)
                yield Source(columns.kind.lower() + packed, check_rows(iter(columns), limits), columns, noted)


def find_table(head: bytes) -> type[ParquetRows] | type[ArrowRows] | None:
    """Return the reader of a file of columns, by the file's first bytes; None for text."""
    if head.startswith(PARQUET):
        return ParquetRows
    return ArrowRows if head.startswith((STREAM, FILE)) else None


class Shards:
    """The rows of an archive's files, numbered through, each with its file's name in a column where there are several."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.format = PurePosixPath(archive.names[0].removesuffix(".gz")).suffix.removeprefix(".")
        self.noted = Lines()
        for name in archive.others:
            self.noted.add(0, rows.naming(BESIDE_SHARDS, name))
        self._done_bytes = 0
        self._counter: Counter | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes of the files that were read, not of what is unpacked ahead."""
        return self._done_bytes + (self._counter.bytes_read if self._counter else 0)

    def __iter__(self) -> Iterator[Row]:
        number = 0
        several = len(self.archive.names) > 1
        for name in self.archive.names:
            try:
                for row in self._read(name):
                    number += 1
                    value = in_column(row, name, FILE_COLUMNS).value if several else row.value
                    yield Row(number, value, row.fault)
            except DatasetInvalid as error:
                raise DatasetInvalid(f"{name} in the archive: {error.detail}") from error

    def _read(self, name: str) -> Iterator[Row]:
        with tempfile.NamedTemporaryFile(dir=self.archive.path.parent, prefix=".unpacked-") as file:
            self.archive.unpack(name, file.file)
            with open_file(Path(file.name), self.archive.limits, self.noted) as source:
                self._counter = source.counter
                yield from source.rows
                self._done_bytes, self._counter = self._done_bytes + source.counter.bytes_read, None


def read_text(source: Unpacked, noted: Lines) -> tuple[str, Iterator[Row]]:
    """Tell JSON lines, a JSON list, JSON objects and CSV apart by the first lines."""
    head = source.head.lstrip()
    if head[:1] == b"[":
        return "json", read_list(source)
    if head[:1] == b"{":
        lines = [line for line in head.split(b"\n") if line.strip()]
        is_lines = len(lines) > 1 and is_json_line(lines[0])
        if not is_lines and holds_lists(head):
            return "json", read_lists(source, noted)
        spread = len(lines) > 1 and not any(is_json_line(line) for line in lines) and is_spread(lines[0])
        return ("json", read_values(source)) if spread else ("jsonl", read_lines(source))
    header = read_header(source)
    if len(header) > 1:
        return "csv", read_csv(source, noted)
    if any(is_json_line(line) for line in head.split(b"\n")):
        return "jsonl", read_lines(source)
    if len(header) == 1 and ONE_NAME.fullmatch(header[0].strip()) and head.strip().count(b"\n"):
        raise DatasetInvalid(
            f'The file has one column only, "{header[0].strip()}": a prompt, its responses and what tells the better one each '
            "need a column. Separate them by comma, semicolon, tab or |, or upload JSON lines."
        )
    raise DatasetInvalid(
        "The file is neither JSON lines, a JSON list, CSV with a header, Arrow nor Parquet: it starts with "
        f'"{shorten(head)}". Upload one of these, also packed with gzip or as a zip or tar archive.'
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
