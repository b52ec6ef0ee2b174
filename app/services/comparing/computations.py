"""Work that takes seconds, done in threads of the web beside its requests: one at a time, and each thing once at a time.

Who asks is answered at once, and asks again; what went wrong is told to the next who does.
"""

import logging
import threading
from collections.abc import Callable, Hashable

from app.domain.errors import StudioError

UNEXPECTED = "The figures of this comparison could not be computed: something unexpected happened. The web's log says what."
log = logging.getLogger(__name__)


class Computations:
    """What is being computed, by key."""

    def __init__(self) -> None:
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._running: dict[Hashable, threading.Thread] = {}
        self._failed: dict[Hashable, StudioError] = {}

    def ask(self, key: Hashable, work: Callable[[], None]) -> None:
        """Have the work done where it is not being done already. Raises what it failed with, once."""
        with self._lock:
            failed = self._failed.pop(key, None)
            if failed is not None:
                raise failed
            if key in self._running:
                return
            thread = threading.Thread(target=self._run, args=(key, work), name="computation", daemon=True)
            self._running[key] = thread
        thread.start()

    def wait(self) -> None:
        """Return once all that was asked for is done."""
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join()

    def _run(self, key: Hashable, work: Callable[[], None]) -> None:
        failed: StudioError | None = None
        try:
            with self._turn:
                work()
        except StudioError as error:
            failed = error
        except Exception:
            log.exception("computing %s", key)
            failed = StudioError(UNEXPECTED)
        with self._lock:
            del self._running[key]
            if failed is not None:
                self._failed[key] = failed
