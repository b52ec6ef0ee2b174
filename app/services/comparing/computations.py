"""Work that takes seconds, done in a thread of the web beside its requests: one at a time, each thing once, owners in turn.

Who asks is answered at once, and asks again; what went wrong is told to the next who does.
"""

import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from app.domain.errors import StudioError

UNEXPECTED = "The figures of this comparison could not be computed: something unexpected happened. The web's log says what."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computation:
    """Something to be computed, for whom."""

    key: Hashable
    owner_id: str
    work: Callable[[], None]


class Computations:
    """What is being computed, or waits for it: next is whose work was done least recently."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._asked: dict[Hashable, Computation] = {}  # in the order in which they came; the one under way too
        self._served: list[str] = []  # owners, the last one last; forgotten when nothing is asked for any more
        self._is_running = False
        self._failed: dict[Hashable, StudioError] = {}

    def ask(self, key: Hashable, owner_id: str, work: Callable[[], None]) -> None:
        """Have the work done where it is not asked for already. Raises what it failed with, once."""
        with self._lock:
            failed = self._failed.pop(key, None)
            if failed is not None:
                raise failed
            self._asked.setdefault(key, Computation(key, owner_id, work))
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="computation", daemon=True).start()

    def wait(self) -> None:
        """Return once all that was asked for is done."""
        with self._lock:
            self._lock.wait_for(lambda: not self._is_running)

    def _run(self) -> None:
        while (one := self._choose()) is not None:
            failed: StudioError | None = None
            try:
                one.work()
            except StudioError as error:
                failed = error
            except Exception:
                log.exception("computing %s", one.key)
                failed = StudioError(UNEXPECTED)
            with self._lock:
                del self._asked[one.key]
                if failed is not None:
                    self._failed[one.key] = failed

    def _choose(self) -> Computation | None:
        """Return what is to be computed next; None when nothing is asked for, with which this thread ends."""
        with self._lock:
            if not self._asked:
                self._served, self._is_running = [], False
                self._lock.notify_all()
                return None
            one = min(self._asked.values(), key=lambda asked: self._turn_of(asked.owner_id))
            self._served = [*(owner_id for owner_id in self._served if owner_id != one.owner_id), one.owner_id]
            return one

    def _turn_of(self, owner_id: str) -> int:
        return self._served.index(owner_id) if owner_id in self._served else -1
