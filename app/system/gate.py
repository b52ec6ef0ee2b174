"""Places that those who ask take turns at, waited for in the event loop.

gate = Gate(places=24, share=8)
await gate.acquire("user_ada")
…
gate.release("user_ada")
"""

import asyncio
from collections import Counter, deque
from itertools import count


class Gate:
    """So many places, of which nobody has more than a share. The next place goes to who has the fewest, then to who was served
    least recently: who asks once doesn't wait behind all that somebody else has asked for.
    """

    def __init__(self, places: int, share: int) -> None:
        self._places, self._share = places, share
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._served: dict[str, int] = {}  # of whom something is held or waits: number of the last turn
        self._numbers = count(1)

    async def acquire(self, key: str) -> None:
        """Wait for a place of somebody's."""
        if key not in self._waiting and self._may_pass(key):
            self._let_in(key)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its place came at the same moment
                self.release(key)
            elif turn in self._waiting.get(key, ()):  # else a place came by since, and passed it over
                self._leave(key, turn)
            raise

    def release(self, key: str) -> None:
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        while fitting := [key for key in self._waiting if self._may_pass(key)]:
            served = min(fitting, key=lambda key: (self._held[key], self._served.get(key, 0)))
            turn = self._waiting[served][0]
            self._leave(served, turn)
            if not turn.done():
                self._let_in(served)
                turn.set_result(None)
        if key not in self._held and key not in self._waiting:
            self._served.pop(key, None)

    def _may_pass(self, key: str) -> bool:
        return self._held.total() < self._places and self._held[key] < self._share

    def _let_in(self, key: str) -> None:
        self._held[key] += 1
        self._served[key] = next(self._numbers)

    def _leave(self, key: str, turn: asyncio.Future[None]) -> None:
        self._waiting[key].remove(turn)
        if not self._waiting[key]:
            del self._waiting[key]
