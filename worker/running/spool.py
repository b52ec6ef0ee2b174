"""The spool: a runner appends each event as one JSON line to `events.jsonl`; the supervisor tails the file into the journal.

A line is `{"n", "at", "kind", "payload"}`; `n` counts from 1 without gaps. Lines are written whole and unbuffered, so a killed
runner leaves at most one torn last line, which is cut off when the same file is opened again.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from app.domain.events import Event
from worker.running.failpoints import reach


class Spool:
    """The open event file of one attempt, with one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n = _cut_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        """Append one event; raises OSError when the disk refuses it."""
        payload = event.model_dump(mode="json")
        line = {"n": self.n + 1, "at": _now(), "kind": payload.pop("kind"), "payload": payload}
        data = json.dumps(line, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        start = self._file.tell()
        reach("spool.writing")
        written = self._file.write(data)
        if written != len(data):  # a full disk takes part of a line: take it back, so that the file stays readable
            os.ftruncate(self._file.fileno(), start)
            raise OSError(28, "the disk took only a part of an event", str(self.path))
        self.n += 1
        reach("spool.written")

    def sync(self) -> None:
        """Wait until the events are on the disk (before a checkpoint becomes the one to resume from)."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _cut_torn_line(path: Path) -> int:
    """Cut what follows the last line break and return the number of whole lines."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            file.truncate(whole)
    return data.count(b"\n")
