"""Rows of our own Parquet files, read by one child process: the 50 MB that pyarrow takes don't live in every web process."""

import atexit
import threading
from pathlib import Path
from typing import Any

from app.domain.errors import Unavailable
from app.system.child import Child, ReplyLost
from app.system.installation import module_command

COMMAND = module_command("app.store.files.reader")
SECONDS = 60.0

_lock = threading.Lock()
_reader: Child | None = None


def read_range(path: Path, start: int, limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows from row `start` on, in order, fewer where they are large.

    Raises FileNotFoundError, and Unavailable when the file can't be read.
    """
    return _ask({"path": str(path), "start": start, "limit": limit})


def read_value(path: Path, column: str, value: int) -> list[dict[str, Any]]:
    """Return the rows whose integer `column` is `value`. Raises as `read_range` does."""
    return _ask({"path": str(path), "column": column, "value": value})


@atexit.register
def close() -> None:
    """End the reader; the next read starts another."""
    global _reader
    with _lock:
        reader, _reader = _reader, None
    if reader is not None:
        reader.stop()


def _ask(job: dict[str, Any]) -> list[dict[str, Any]]:
    global _reader
    with _lock:
        if _reader is None or not _reader.alive:
            _reader = Child(COMMAND)
        try:
            reply = _reader.ask(job, SECONDS)
        except ReplyLost:
            _reader.stop()
            raise Unavailable(f"The file {Path(job['path']).name} could not be read: try again in a few seconds.") from None
    if "missing" in reply:
        raise FileNotFoundError(job["path"])
    rows: list[dict[str, Any]] = reply["rows"]
    return rows
