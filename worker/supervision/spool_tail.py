"""Reads the runner's spool (`events.jsonl`) while it grows: whole lines only, a torn last line waits for its end."""

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from app.domain.events import SpoolLine
from app.domain.texts import make_keepable

CHUNK_BYTES = 1 << 20
MAX_LINES = 500

log = logging.getLogger(__name__)


class SpoolTail:
    """Where the reader stands in the file. `unread_bytes` after the runner's end is a line it never finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self.given_bytes = 0  # of the lines that `read` has returned
        self._waiting: list[bytes] = []

    def read(self) -> Sequence[SpoolLine]:
        """Return the next lines, at most MAX_LINES; empty when there is no whole one. A line that is no event is left out."""
        while self._waiting or (waiting := self._read_lines()):
            self._waiting = self._waiting or waiting
            raw, self._waiting = self._waiting[:MAX_LINES], self._waiting[MAX_LINES:]
            self.given_bytes += sum(len(line) + 1 for line in raw)
            if lines := [line for line in map(self._parse, raw) if line is not None]:
                return lines
        return []

    @property
    def unread_bytes(self) -> int:
        """How many bytes of the file were not read as lines."""
        return self.size_bytes - self._offset

    @property
    def size_bytes(self) -> int:
        """How large the file is now."""
        return self.path.stat().st_size if self.path.exists() else 0

    def _read_lines(self) -> list[bytes]:
        if not self.unread_bytes:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read(CHUNK_BYTES)
            while b"\n" not in text and (more := file.read(len(text))):  # a line longer than a chunk
                text += more
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.splitlines()

    def _parse(self, raw: bytes) -> SpoolLine | None:
        try:
            return SpoolLine.model_validate_json(raw)
        except ValidationError as error:
            if raw.strip():
                log.warning("a line of %s can't be read and is left out: %s", self.path, error)
            return None


def read_log_tail(path: Path, num_lines: int = 40, num_bytes: int = 32_768) -> str:
    """Return the last lines of a log file; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - num_bytes))
        text = str(make_keepable(file.read().decode("utf-8", errors="replace")))
    return "\n".join(text.splitlines()[-num_lines:])
