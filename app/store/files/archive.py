"""A backup's file: a tar archive whose last member, the manifest, names every other one with its size and SHA-256.

    tables/<name>.jsonl …    files/<path in the data folder> …    manifest.json

A member that the manifest doesn't name (a file that changed while it was copied) does not count.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, Self

from app.domain.backup import BackupManifest, Member, parse_manifest
from app.domain.errors import InvalidInput
from app.system.files import name_beside, put_in_place

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**30  # about four million files
TABLES, FILES = "tables/", "files/"


class ByteSource(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes: ...


class ArchiveWriter:
    """Writes beside its place and moves the whole there at the end; leaving the block without `finish` discards it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = name_beside(path)
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # digests of secrets
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, content: ByteSource, size: int, modified_at: float = 0.0) -> Member | None:
        """Copy `size` bytes; None when there were fewer, so that the member must not be named in the manifest."""
        counted = _Counted(content, size)
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = size, modified_at, 0o600
        self._tar.addfile(info, counted)  # type: ignore[arg-type]
        _forget_members(self._tar)
        return None if counted.is_short else Member(size_bytes=size, sha256=counted.sha256)

    def finish(self, manifest: BackupManifest) -> None:
        """Write the manifest, wait for the disk, and give the archive its name."""
        data = manifest.model_dump_json(indent=1).encode()
        self.add(MANIFEST, io.BytesIO(data), len(data))
        self._tar.close()
        self._file.flush()
        put_in_place(self._temporary, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class _Counted:
    """Hashes what is read; after an early end it gives zeros, because a tar member's size is written before it."""

    def __init__(self, source: ByteSource, size: int) -> None:
        self._source, self._left = source, size
        self._digest = hashlib.sha256()
        self.is_short = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int) -> bytes:
        wanted = min(size, self._left)
        data = b"" if self.is_short else self._source.read(wanted)
        if not data and wanted:
            self.is_short = True
            data = b"\0" * wanted
        self._left -= len(data)
        self._digest.update(data)
        return data


@contextmanager
def open_archive(path: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Provide the members of an archive in their order, each to be read before the next.

    Raises: InvalidInput when it is no archive, or ends too early.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield _members(tar)
    except (tarfile.TarError, EOFError) as error:
        raise InvalidInput(f"{path} can't be read as a backup: {error}. Take another backup.") from error


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    while (info := tar.next()) is not None:
        file = tar.extractfile(info) if info.isreg() else None
        if file is None:
            raise InvalidInput(f"The backup holds {info.name!r}, which is no plain file: it was not made by VAR Studio.")
        yield info.name, file
        _forget_members(tar)


def _forget_members(tar: tarfile.TarFile) -> None:
    """tarfile keeps a record of every member that passes; nobody asks for it here."""
    tar.members.clear()  # type: ignore[attr-defined]


def verify(path: Path) -> BackupManifest:
    """Read the whole archive and compare it with its manifest.

    Raises: InvalidInput with what is wrong: no backup, another format, cut off, or a member that isn't what was written.
    """
    found: dict[str, tuple[int, str]] = {}
    manifest: BackupManifest | None = None
    with open_archive(path) as members:
        for name, file in members:
            if name in found or (name == MANIFEST and manifest is not None):
                raise InvalidInput(f"{path} holds {name} twice: it was not made by VAR Studio.")
            if name == MANIFEST:
                manifest = parse_manifest(str(path), file.read(MAX_MANIFEST_BYTES))
            else:
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                found[name] = (file.tell(), digest)
    if manifest is None:
        raise InvalidInput(f"{path} is cut off: the manifest at its end is missing. Take another backup.")
    for name, member in named_members(manifest):
        if found.get(name) != (member.size_bytes, member.sha256):
            state = "is missing" if name not in found else "is not what was written (its SHA-256 differs)"
            raise InvalidInput(f"{path} is damaged: {name} {state}. Take another backup.")
    return manifest


def named_members(manifest: BackupManifest) -> Iterator[tuple[str, Member]]:
    """Yield every member that counts, by its name in the archive."""
    for table, member in manifest.tables.items():
        yield f"{TABLES}{table}.jsonl", member
    for path, member in manifest.files.items():
        yield f"{FILES}{path}", member
