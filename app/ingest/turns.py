"""Work that waits for a place, by owner: next is who has the least under way, then who was served least recently.

No owner has all places.

turns = Turns(places=6, share=4)
future = turns.submit("user_ada", function, *arguments)
"""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WaitingWork:
    """Something to be done for somebody."""

    owner_id: str
    work: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)


class Turns:
    """Threads that users take turns at; of one user at most `share` at a time. Safe to use from many threads."""

    def __init__(self, places: int, share: int) -> None:
        self.threads = ThreadPoolExecutor(places, thread_name_prefix="turns")
        self._places, self._share = places, share
        self._lock = threading.Lock()
        self._waiting: list[WaitingWork] = []  # as they came
        self._under_way: Counter[str] = Counter()
        self._served: dict[str, int] = {}  # of whom something waits or is under way: number of the last turn
        self._numbers = count(1)

    def submit(self, owner_id: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function when it is its owner's turn."""
        turn = WaitingWork(owner_id, partial(function, *args, **kwargs))
        with self._lock:
            self._waiting.append(turn)
            self._begin()
        return turn.future

    def close(self) -> None:
        """Begin nothing more; what waits is cancelled."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for turn in waiting:
            turn.future.cancel()
        self.threads.shutdown(wait=False)

    def _begin(self) -> None:
        """Begin whatever may begin; called with the lock."""
        while self._under_way.total() < self._places and (fitting := [turn for turn in self._waiting if self._may_begin(turn)]):
            turn = min(fitting, key=lambda turn: (self._under_way[turn.owner_id], self._served.get(turn.owner_id, 0)))
            self._waiting.remove(turn)
            self._under_way[turn.owner_id] += 1
            self._served[turn.owner_id] = next(self._numbers)
            self.threads.submit(self._carry_out, turn)

    def _may_begin(self, turn: WaitingWork) -> bool:
        return self._under_way[turn.owner_id] < self._share

    def _carry_out(self, turn: WaitingWork) -> None:
        try:
            if turn.future.set_running_or_notify_cancel():
                turn.future.set_result(turn.work())
        except BaseException as error:
            turn.future.set_exception(error)
        finally:
            with self._lock:
                self._under_way[turn.owner_id] -= 1
                self._forget()
                self._begin()

    def _forget(self) -> None:
        """Forget who has nothing under way and nothing waiting."""
        self._under_way = +self._under_way
        known = {*self._under_way, *(turn.owner_id for turn in self._waiting)}
        self._served = {owner_id: number for owner_id, number in self._served.items() if owner_id in known}
