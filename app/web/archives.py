"""Several files as one zip archive, made while it is sent: nothing of it is kept, neither in memory nor on the disk."""

import zipfile
from collections.abc import Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Final

CHUNK_BYTES = 2**20
BYTES: Final = "w"  # an archive knows no text


class _Outbox(RawIOBase):
    """Takes what the archive writes until it is fetched; it can't be sought, so sizes follow each file."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, chunk: object) -> int:
        data = bytes(chunk)  # type: ignore[call-overload]
        self._chunks.append(data)
        return len(data)

    def fetch(self) -> bytes:
        data, self._chunks = b"".join(self._chunks), []
        return data


def as_zip(paths: Mapping[str, Path]) -> Iterator[bytes]:
    """Yield an archive of these files under these names, uncompressed: weights don't get smaller."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for name, path in paths.items():
            with path.open("rb") as source, archive.open(zipfile.ZipInfo(name), BYTES, force_zip64=True) as target:
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    yield outbox.fetch()
    yield outbox.fetch()
