"""Archives of shards, zip and tar (also gzipped): their data files one after another, in the order of their names.

A member is unpacked beside the archive while it is read, so that every format is read as if it had been uploaded alone.
"""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, Self

from app.domain.errors import DatasetInvalid
from app.ingest.formats.unpack import CHUNK, GZIP, check_size
from app.ingest.limits import Limits
from app.system.files import is_of_the_machine

DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
DESCRIPTIONS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))  # of a saved data set
OFFICE = {  # what a zip is when it holds this
    "xl/": "an Excel workbook. Save the sheet with the rows as CSV (UTF-8) and upload that.",
    "word/": "a Word document. Upload a table of rows: .jsonl, .json, .csv or .parquet.",
    "ppt/": "a PowerPoint presentation. Upload a table of rows: .jsonl, .json, .csv or .parquet.",
    "content.xml": "an OpenDocument file. Save the sheet with the rows as CSV (UTF-8) and upload that.",
    "data.pkl": "a PyTorch file. Upload a table of rows: .jsonl, .json, .csv or .parquet.",
}
# What the libraries raise for what is wrong in an archive: among RuntimeErrors that it is encrypted or packed in an unknown way,
# among OSErrors those without a number (gzip's own), and EINVAL for a place before the file's beginning.
FAULTS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, OSError, EOFError, RuntimeError, ValueError)
USTAR = slice(257, 262)


class Members(Protocol):
    """What zip and tar files have in common here."""

    def names(self) -> list[str]: ...

    def open(self, name: str) -> IO[bytes]: ...

    def close(self) -> None: ...


class ZipMembers:
    """The files of a zip archive."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self.close = self._zip.close

    def names(self) -> list[str]:
        return [info.filename for info in self._zip.infolist() if not info.is_dir()]

    def open(self, name: str) -> IO[bytes]:
        return self._zip.open(name)


class TarMembers:
    """The files of a tar archive, plain or gzipped."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path)  # noqa: SIM115, closed by the archive
        self.close = self._tar.close

    def names(self) -> list[str]:
        return [info.name for info in self._tar if info.isfile()]

    def open(self, name: str) -> IO[bytes]:
        found = self._tar.extractfile(name)
        if found is None:
            raise tarfile.TarError("it is no file")
        return found


class Archive:
    """An archive's data files; what else it holds is in `others`."""

    def __init__(self, kind: str, path: Path, limits: Limits) -> None:
        self.kind, self.path, self.limits = kind, path, limits
        self.unpacked_bytes = 0
        with ExitStack() as stack, blaming(f"This is a {kind} archive that can't be read"):
            self._members: Members = ZipMembers(path) if kind == "zip" else TarMembers(path)
            stack.callback(self._members.close)
            self.names, self.others = sort_members(kind, self._members.names())
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._members.close()

    def unpack(self, name: str, target: IO[bytes]) -> None:
        """Write a member to a file. Raises DatasetInvalid, TooLarge."""
        with blaming(f"{name} in the archive can't be unpacked"), self._members.open(name) as member:
            while data := member.read(CHUNK):
                self.unpacked_bytes += len(data)
                check_size(self.unpacked_bytes, self.path.stat().st_size, self.limits)
                target.write(data)
        target.flush()


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Raise DatasetInvalid for what is wrong with the archive, and let through what is wrong with the machine."""
    try:
        yield
    except FAULTS as error:
        if is_of_the_machine(error):
            raise
        raise DatasetInvalid(f"{what} ({say(error)}). Pack it again.") from error


def find_archive(path: Path) -> str:
    """Return "zip" or "tar" for an archive, "" for any other file."""
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(GZIP):
        head = unpack_start(path)
    return "tar" if head[USTAR] == b"ustar" else ""


def unpack_start(path: Path) -> bytes:
    """Return the first bytes of a gzip file, as many as can be read."""
    with path.open("rb") as file:
        try:
            return zlib.decompressobj(wbits=31).decompress(file.read(4096), 512)
        except zlib.error:
            return b""


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts part 2 before part 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def is_hidden(name: str) -> bool:
    """Return whether a file is its system's own."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def is_data(name: str) -> bool:
    """Return whether a file's name says that it holds rows."""
    last = PurePosixPath(name.lower()).name.removesuffix(".gz")
    return last.endswith(DATA_ENDINGS) and not is_description(name) and not is_hidden(name)


def sort_members(kind: str, found: list[str]) -> tuple[list[str], list[str]]:
    """Return an archive's data files in the order of their numbers, and its other files. Raises DatasetInvalid without data."""
    refuse_office(found)
    names = sorted((name for name in found if is_data(name)), key=natural)
    others = [name for name in found if name not in names and not is_hidden(name) and not is_description(name)]
    if not names:
        listed = ", ".join(others[:5]) or "nothing"
        raise DatasetInvalid(f"The {kind} archive holds no data file, but {listed}. Pack .jsonl, .json, .csv or .parquet files.")
    return names, others


def is_description(name: str) -> bool:
    """Return whether a file only describes the saved data set that it lies in."""
    return PurePosixPath(name).name in DESCRIPTIONS


def refuse_office(names: list[str]) -> None:
    """Raise DatasetInvalid, by its kind, for what is a zip archive only inside."""
    for mark, what in OFFICE.items():
        if any(name.startswith(mark) if mark.endswith("/") else PurePosixPath(name).name == mark for name in names):
            raise DatasetInvalid(f"This is {what}")


def say(error: BaseException) -> str:
    """Return what a library said, as one short line."""
    return (str(error).splitlines() or [""])[0][:120].rstrip(" .") or type(error).__name__
