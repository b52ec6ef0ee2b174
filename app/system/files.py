"""Files and folders that are whole or not there: filled beside their place, on the disk before they get their name.

What is being filled is called `.<name>.<random>.part`, so that whoever comes after a killed writer knows it for a leftover.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PIECE_BYTES = 2**20


def never() -> None:
    """Refuse nothing: the check of a work that nobody ends early."""


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether a failed reading is the machine's fault, not that of what the file holds.

    Readers of formats raise OSErrors as well: without a number, or with EINVAL for a place before the file's beginning.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def keep_private() -> int:
    """Let this process and its children make files and folders for their user alone; returns the umask that was.

    What the user already withheld stays withheld.
    """
    known = os.umask(0o077)
    os.umask(known | 0o077)
    return known


@contextmanager
def private_files() -> Iterator[None]:
    """Let the block make files and folders for its user alone."""
    known = keep_private()
    try:
        yield
    finally:
        os.umask(known)


def name_beside(path: Path) -> Path:
    """Return a name in the same folder for what is not whole yet, different at each call."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(temporary: Path, path: Path, may_appear: Callable[[], None] = never) -> None:
    """Give a filled file its name. What `may_appear` raises, asked when the file is on the disk, leaves it without."""
    sync(temporary)
    may_appear()
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def writing(path: Path, may_appear: Callable[[], None] = never) -> Iterator[Path]:
    """Yield a name to write a file under; it is put in place when the block ends well, and removed when it doesn't.

    Raises: IsADirectoryError, before anything is written, where a folder is named.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_beside(path)
    try:
        yield temporary
        put_in_place(temporary, path, may_appear)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, for the block to fill and rename; what is not renamed is removed."""
    temporary = name_beside(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; one that isn't there is no error."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed writers left anywhere below a folder; nobody may write there meanwhile."""
    for path in folder.rglob(".*.part"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make a second name for a file where the file system has such, a copy elsewhere."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def read_pieces(file: BinaryIO, piece_bytes: int, check: Callable[[], None]) -> Iterator[bytes]:
    """Yield the file in pieces, and ask the check, which may raise, before each."""
    while piece := file.read(piece_bytes):
        check()
        yield piece


def hash_file(path: Path, check: Callable[[], None] = never) -> str:
    """Return the file's SHA-256, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in read_pieces(file, PIECE_BYTES, check):
            digest.update(piece)
    return digest.hexdigest()
