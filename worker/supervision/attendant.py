"""A thread beside the supervisor's that asks a warm child process, which it starts when needed and replaces when it dies."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from app.domain.errors import Unavailable
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from app.store.files.objects import Interruption
from app.system.child import Child

POLL_SECONDS = 0.25  # with SQLite; with a server of its own every settings.poll_seconds, and at each hint
LOOK_SECONDS = 0.5  # how often what is awaited is looked up: it may have been deleted
RECORD_TRIES = 5
JOIN_SECONDS = 20.0

log = logging.getLogger(__name__)


class Stopping(Interruption):
    """The worker stops while an answer is awaited."""


class Unwanted(Interruption):
    """What is answered was deleted meanwhile, or another worker has taken it."""


class Attendant(ABC):
    """The thread: takes what waits one after the other, as long as the worker lives."""

    what: str

    def __init__(
        self, settings: Settings, database: Database, files: Files, worker_id: str, hinted: threading.Event | None
    ) -> None:
        self.settings, self.database, self.files, self.worker_id = settings, database, files, worker_id
        self._poll_seconds = POLL_SECONDS if database.is_sqlite else settings.poll_seconds
        self._hinted = hinted or threading.Event()
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._thread = threading.Thread(target=self._run, name=self.what, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end its child and itself; what is under way goes back to the queue."""
        self._stopping.set()
        self._hinted.set()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._hinted.is_set():  # somebody asks, or is about to: be warm
                    self._hinted.clear()
                    self._warm_up()
                self._answer_all()
            except Unavailable as error:
                log.warning("%s: %s", self.what, error)
                self._stopping.wait(1)
            except Exception:
                log.exception("%s failed; it is tried again", self.what)
                self._stopping.wait(1)
            self._hinted.wait(self._poll_seconds)
        self._end_child()

    @abstractmethod
    def _answer_all(self) -> None:
        """Answer what waits."""

    @abstractmethod
    def _start_child(self) -> Child:
        """Return a new child."""

    def _warm_up(self) -> None:
        self._warm_child()

    def _record(self, write: Callable[[Any], bool]) -> bool:
        """Return what `write` does, after a few tries: seconds of computing should not be lost to a database locked for one."""
        for attempt in range(RECORD_TRIES):
            try:
                with self.database.writing() as session:
                    return write(session)
            except Unavailable:
                if attempt == RECORD_TRIES - 1:
                    raise
                self._stopping.wait(0.5)
        return False

    def _warm_child(self) -> Child:
        if self._child is not None and not self._child.alive:  # it has left after some idle minutes, or was killed
            self._end_child()
        if self._child is None:
            self._child = self._start_child()
            log.info("%s: started process %d", self.what, self._child.pid)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
