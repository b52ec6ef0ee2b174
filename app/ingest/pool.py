"""Child processes that read uploads, started beforehand: a hostile file meets kernel limits, never the web process.

pool = IngestPool(settings); pool.start()
reply = pool.run({"source": …, "target": …, "mapping": …}, timeout=60.0)
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from app.domain.errors import StudioError, Unavailable
from app.ingest.turns import Turns
from app.settings import Settings
from app.system.child import Child, ReplyLost
from app.system.installation import module_command

PRESPAWNED, MOST, SHARE = 2, 6, 4  # children that wait, that work, and that work for one user
START_SECONDS = 0.5  # of a child, about
CPU_SECONDS, CPU_SECONDS_PER_MIB = 60, 10
COMMAND = tuple(module_command("app.ingest"))
STOPPED = "Reading the file was stopped: it took too much time or memory. Split it, or shorten its longest rows."
GONE = "The file is not there any more: its data set was deleted while it was read."
CLOSING = "The studio is shutting down. The file is kept and read at its next start."
P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)


class SourceGone(Exception):
    """The file that a child reads was deleted."""


class IngestPool:
    """At least `PRESPAWNED` idle children, at most `MOST` at work; a dead one is replaced. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._lock = threading.Condition()
        self._places = threading.BoundedSemaphore(MOST)
        self._turns = Turns(MOST, SHARE)
        self._closed = False

    def start(self) -> None:
        """Start the first children, so that the first upload need not wait for them."""
        children = [Child(COMMAND) for _ in range(PRESPAWNED)]
        with self._lock:
            if not self._closed:
                self._idle.extend(children)
                return
        for child in children:
            child.stop()

    def close(self) -> None:
        """End all children; `run` calls under way raise Unavailable, so that their work is taken up at the next start."""
        self._turns.close()
        with self._lock:
            self._closed = True
            children, self._idle = self._idle, []
            for child in self._busy:
                child.kill()
            self._lock.notify_all()
        for child in children:
            child.stop()

    def closes_within(self, seconds: float) -> bool:
        """Wait so long; True as soon as the pool is closed."""
        with self._lock:
            return self._lock.wait_for(lambda: self._closed, seconds)

    def submit(self, owner_id: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function that uses `run` when it is its owner's turn; what it raises is logged, even if nobody waits."""
        future = self._turns.submit(owner_id, function, *args, **kwargs)
        future.add_done_callback(log_failure)
        return future

    def run(self, job: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Return the reply to a job {"source", "target", "mapping"?}; see app.ingest.__main__. Never raises for a bad file.

        The child ends as soon as the source is deleted. Raises Unavailable when the pool is closed.
        """
        source = Path(job["source"])
        seconds = cpu_seconds(source)

        def check() -> None:
            if not source.exists():
                raise SourceGone

        full = {"max_unpacked_bytes": self.settings.max_unpacked_bytes, "cpu_seconds": seconds, **job}
        with self._places:
            child = self._take()
            try:
                reply = child.ask(full, timeout or seconds * 10.0, check)
                check()  # a child that opens a file just after it was deleted answers with the system's words
                return reply
            except SourceGone:
                child.stop()
                return refusal(GONE)
            except ReplyLost as lost:
                child.stop()
                if self._closed:
                    raise Unavailable(CLOSING) from None
                log.warning("a child died over %s: %s", source, lost)
                return refusal(STOPPED)
            finally:
                self._give_back(child)

    def _take(self) -> Child:
        """Return an idle child; a new one when none comes back sooner than a new one would be ready."""
        while True:
            with self._lock:
                if self._busy:
                    self._lock.wait_for(lambda: self._idle or self._closed, START_SECONDS)
                if self._closed:
                    raise Unavailable(CLOSING)
                child = self._idle.pop() if self._idle else Child(COMMAND)
                if child.alive:
                    self._busy.add(child)
                    return child
            child.stop()

    def _give_back(self, child: Child) -> None:
        fresh = child
        if not child.alive:
            child.stop()
            fresh = Child(COMMAND)
        with self._lock:
            self._busy.discard(child)
            if not self._closed and len(self._idle) < PRESPAWNED:
                self._idle.append(fresh)
                self._lock.notify()
                return
        fresh.stop()


def refusal(detail: str) -> dict[str, Any]:
    """Return the reply in the place of one that did not come."""
    return {"status": "invalid", "error": {"code": "dataset-invalid", "detail": detail, "problems": [], "extra": {}}}


def log_failure(future: "Future[Any]") -> None:
    """Leave a trace of what a thread raised."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("processing a data set failed: %s", error, exc_info=None if isinstance(error, StudioError) else error)


def cpu_seconds(source: Path) -> int:
    """Processor time that a file of this size may take: many times what is usual."""
    try:
        size_bytes = source.stat().st_size
    except OSError:
        size_bytes = 0
    return CPU_SECONDS + CPU_SECONDS_PER_MIB * (size_bytes // 2**20)
