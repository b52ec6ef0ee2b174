"""How much the data folder holds, of what, and whether there is room for more.

The folder is walked at most every few seconds, in the background, and only when somebody asks; the free space of its disk
is asked anew each time.
"""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import StorageFull
from app.settings import Settings
from app.system.sizes import describe_size

FRESH_SECONDS = 30.0
FRESH_SECONDS_FULL = 2.0  # whoever waits for room should not wait longer than it takes
COST = 20.0  # a walk takes at most this part of the time: 1/20
QUICK_SECONDS = 0.5  # a walk that a request may wait for
PARTS = ("datasets", "models", "checkpoints", "artifacts", "attempts", "scorings", "hub", "uploads", "database", "other")
TOP_FOLDERS = {"datasets", "models", "scorings", "hub", "uploads"}
RUN_FOLDERS = {"checkpoints", "artifacts", "attempts"}


@dataclass(frozen=True)
class Usage:
    """Bytes by part of the data folder."""

    parts: dict[str, int]
    seconds: float  # that the walk took
    at: float  # monotonic

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Storage:
    """What is used and what may be; 0 for a limit that isn't set."""

    used_bytes: int
    parts: dict[str, int]
    quota_bytes: int
    free_bytes: int
    disk_bytes: int
    min_free_bytes: int

    @property
    def room_bytes(self) -> int:
        """How much more may be written; never negative."""
        rooms = [self.free_bytes - self.min_free_bytes]
        if self.quota_bytes:
            rooms.append(self.quota_bytes - self.used_bytes)
        return max(0, min(rooms))

    @property
    def is_full(self) -> bool:
        return bool(self.reason)

    @property
    def reason(self) -> str:
        """Why nothing more may be begun, as a sentence; empty while there is room."""
        if self.quota_bytes and self.used_bytes >= self.quota_bytes:
            used, quota = describe_size(self.used_bytes), describe_size(self.quota_bytes)
            return f"The studio's files take {used} of the {quota} they may (STUDIO_DISK_QUOTA_BYTES)."
        if self.min_free_bytes and self.free_bytes < self.min_free_bytes:
            free, wanted = describe_size(self.free_bytes), describe_size(self.min_free_bytes)
            return f"The studio's disk has {free} left, and {wanted} are to stay free (STUDIO_MIN_FREE_BYTES)."
        return ""


class DiskGauge:
    """Measures one data folder; safe to ask from many threads."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.root
        self._quota, self._min_free = settings.disk_quota_bytes, settings.min_free_bytes
        self._usage: Usage | None = None
        self._lock = threading.Lock()

    @property
    def is_limited(self) -> bool:
        return bool(self._quota or self._min_free)

    def look(self) -> Storage:
        """Return the state now; the walk behind it is a few seconds old at most, older where it takes long."""
        usage = self._usage
        if usage is None:
            usage = self._measure()
        elif self._is_stale(usage):
            threading.Thread(target=self._measure, args=(usage,), name="disk", daemon=True).start()
        return self._describe(usage)

    def require_room(self, what: str, num_bytes: int = 0) -> None:
        """Raises StorageFull when `what` (of so many bytes, where that is known) can't be begun."""
        if not self.is_limited:
            return
        storage = self.look()
        if self._lacks(storage, num_bytes) and self._usage is not None and self._usage.seconds < QUICK_SECONDS:
            usage = self._usage  # perhaps something was deleted a moment ago
            storage = self._describe(self._measure(usage) if self._age(usage) > FRESH_SECONDS_FULL / 2 else usage)
        if self._lacks(storage, num_bytes):
            reason = storage.reason or f"There is room for {describe_size(storage.room_bytes)} more."
            remedy = "Delete runs, data sets or scorings that nobody needs, or give more room."
            raise StorageFull(f"{what} can't be taken in: {reason} {remedy}")

    def _lacks(self, storage: Storage, num_bytes: int) -> bool:
        return storage.is_full or num_bytes > storage.room_bytes

    def _describe(self, usage: Usage) -> Storage:
        free, size = _space(self._root)
        return Storage(usage.total, usage.parts, self._quota, free, size, self._min_free)

    def _age(self, usage: Usage) -> float:
        return time.monotonic() - usage.at

    def _is_stale(self, usage: Usage) -> bool:
        fresh = FRESH_SECONDS_FULL if self._describe(usage).is_full else FRESH_SECONDS
        return self._age(usage) > max(fresh, COST * usage.seconds)

    def _measure(self, known: Usage | None = None) -> Usage:
        """Walk the folder; who comes while somebody else walks gets that result."""
        with self._lock:
            if self._usage is not None and self._usage is not known:
                return self._usage
            start = time.monotonic()
            parts = measure(self._root)
            self._usage = Usage(parts, time.monotonic() - start, time.monotonic())
            return self._usage


def measure(root: Path) -> dict[str, int]:
    """Bytes of all files below the data folder, by part; links count nothing."""
    parts = dict.fromkeys(PARTS, 0)
    for entry in _scan(root):
        if entry.is_dir(follow_symlinks=False):
            if entry.name == "runs":
                for run in _scan(entry.path):
                    for inner in _scan(run.path) if run.is_dir(follow_symlinks=False) else []:
                        parts[inner.name if inner.name in RUN_FOLDERS else "other"] += _weigh(inner)
            else:
                parts[entry.name if entry.name in TOP_FOLDERS else "other"] += _weigh(entry)
        else:
            is_database = entry.name.startswith(("studio.db", "broker.db"))
            parts["database" if is_database else "other"] += _weigh(entry)
    return parts


def weigh(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(_weigh(entry) for entry in _scan(path))


def _scan(path: str | Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(path) as found:
        return list(found)
    return []


def _weigh(entry: os.DirEntry[str]) -> int:
    """Bytes of a file, or of all below a folder; what goes meanwhile counts nothing."""
    total, waiting = 0, [entry]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):
            if one.is_dir(follow_symlinks=False):
                waiting += _scan(one.path)
            elif one.is_file(follow_symlinks=False):
                total += one.stat(follow_symlinks=False).st_size
    return total


def _space(root: Path) -> tuple[int, int]:
    """Free bytes and size of the disk below the nearest folder that is there."""
    while not root.exists():
        root = root.parent
    facts = os.statvfs(root)
    return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
