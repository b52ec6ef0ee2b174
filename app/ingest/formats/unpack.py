"""The bytes of an upload, unpacked: gzip by its magic number, byte-order marks, caps against bombs.

Formats are told by content, never by the file's name.
"""

import codecs
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self, cast

from app.domain.errors import DatasetInvalid, TooLarge
from app.ingest.limits import Limits
from app.system.files import is_of_the_machine

CHUNK = 2**18
HEAD = 2**16
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
FOREIGN = {  # magic numbers of what people also upload
    b"PK\x03\x04": "a zip archive within gzip or within another archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
    b"PARE": "an encrypted Parquet file",
    b"\x89PNG": "an image",
    b"Rar!": "a RAR archive",
    b"\xd0\xcf\x11\xe0": "a workbook or document of an old Office",
    b"\x93NUMPY": "a numpy array",
    b"version https://git-lfs": "what Git LFS keeps in the place of a file, and not the file itself (git lfs pull fetches it)",
    b"<!DOCTYPE html": "a web page, as a download leaves it that wanted a login",
    b"<!doctype html": "a web page, as a download leaves it that wanted a login",
    b"<html": "a web page, as a download leaves it that wanted a login",
    **{bytes((0x80, protocol)): "a Python pickle" for protocol in (2, 3, 4, 5)},
}
MARKS = (  # byte-order marks, the longer ones first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Unpacked:
    """The file's bytes, unpacked and (for text) as UTF-8 without a byte-order mark; `bytes_read` counts them."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.limits = limits
        self.bytes_read = 0
        self.packed_bytes = path.stat().st_size
        self._file = path.open("rb")
        self.gzipped = self._file.read(2) == GZIP
        self._file.seek(0)
        self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=self._file)) if self.gzipped else cast(BinaryIO, self._file)
        self.head = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ends_in_returns = False
        try:
            self.head = self._read(HEAD)
            if not self.head:
                raise DatasetInvalid("The file is empty. Upload one that has rows.")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def _read(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError as error:
            raise DatasetInvalid("The gzip file ends too early: it was cut off. Upload it again, whole.") from error
        except (zlib.error, OSError) as error:
            if is_of_the_machine(error):
                raise
            raise DatasetInvalid(explain(error)) from error
        self.bytes_read += len(data)
        check_size(self.bytes_read, self.packed_bytes, self.limits)
        return data

    def open_text(self) -> None:
        """Make ready for `read`: refuses binary files, sets up the decoding of UTF-16 and UTF-32, skips the mark."""
        for mark, encoding in MARKS:
            if self.head.startswith(mark):
                self._decoder = codecs.getincrementaldecoder(encoding)()
                self.head = self._transcode(self.head)
                self._look_for_ends()
                return
        refuse_foreign(self.head)
        if self.head.count(0) * 10 > len(self.head):
            raise DatasetInvalid(
                "The file is binary, or UTF-16 text without a byte-order mark. "
                "Upload UTF-8 text (.jsonl, .json, .csv) or Parquet, each also packed with gzip."
            )
        self.head = self.head.removeprefix(codecs.BOM_UTF8)
        self._look_for_ends()

    def _look_for_ends(self) -> None:
        """Lines may end in carriage returns alone: those become line feeds, which JSON and CSV know."""
        self._ends_in_returns = b"\n" not in self.head and b"\r" in self.head[:-1]
        if self._ends_in_returns:
            self.head = self.head.replace(b"\r", b"\n")

    def _transcode(self, data: bytes, final: bool = False) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.decode(data, final).encode()
        except UnicodeError as error:
            raise DatasetInvalid(
                f"The file's byte-order mark says UTF-16 or UTF-32, but it stops being that near byte {self.bytes_read}. "
                "Save it as UTF-8."
            ) from error

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes of the text; b"" at the end."""
        if self.head:
            head, self.head = self.head, b""
            return head
        data = self._unpack(size)
        return data.replace(b"\r", b"\n") if self._ends_in_returns else data

    def _unpack(self, size: int) -> bytes:
        data = self._read(size)
        if self._decoder is None:
            return data
        while data:
            if text := self._transcode(data):
                return text
            data = self._read(size)
        return self._transcode(b"", final=True)

    def copy_to(self, target: IO[bytes]) -> None:
        """Write all unpacked bytes to a file."""
        data = self.head
        while data:
            target.write(data)
            data = self._read(CHUNK)


def explain(error: Exception) -> str:
    """Return a sentence for what gzip said."""
    if isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file"):
        return "The gzip data is followed or interrupted by something that is not gzip. Pack the file again."
    return "The gzip data is damaged and can't be unpacked. Pack the file again."


def check_size(unpacked_bytes: int, packed_bytes: int, limits: Limits) -> None:
    """Refuse what unpacks to too much, absolutely or for its size."""
    if unpacked_bytes > limits.max_unpacked_bytes:
        raise TooLarge(f"Unpacked, the file is larger than the limit of {limits.max_unpacked_bytes / 2**30:.3g} GiB. Split it.")
    if unpacked_bytes > max(limits.ratio_floor_bytes, limits.max_ratio * packed_bytes):
        raise DatasetInvalid(
            f"The file unpacks to more than {limits.max_ratio} times its size, as only a decompression bomb does. "
            "Upload it unpacked."
        )


def refuse_foreign(head: bytes) -> None:
    """Name the file's format when it is a known one that is not taken."""
    if head.startswith(GZIP):
        raise DatasetInvalid("The file was packed with gzip twice. Unpack it once and upload it again.")
    for magic, name in FOREIGN.items():
        if head.startswith(magic):
            raise DatasetInvalid(
                f"This is {name}. Upload .jsonl, .json, .csv or .parquet, also packed with gzip or as a zip or tar archive."
            )


def iter_lines(source: Unpacked, max_bytes: int) -> Iterator[bytes | None]:
    """Yield the text's lines without their line feeds; None stands for a line longer than `max_bytes`."""
    pending: list[bytes] = []
    size = 0
    while chunk := source.read():
        *complete, tail = chunk.split(b"\n")
        for part in complete:
            size += len(part)
            yield None if size > max_bytes else b"".join((*pending, part))
            pending, size = [], 0
        size += len(tail)
        if size > max_bytes:
            pending = []
        elif tail:
            pending.append(tail)
    if size:
        yield None if size > max_bytes else b"".join(pending)
