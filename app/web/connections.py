"""Connections whose requests come in time: uvicorn itself waits forever for the rest of a request's head.

uvicorn --http app.web.connections:Connection …
"""

import asyncio
from typing import Any

from uvicorn.protocols.http import h11_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the connection's start, or the last answer, to the end of the next head
PIECES_AT_ONCE = 64  # heads, pieces and ends of bodies that one connection brings before others have their turn
NEED_DATA: Any = h11_impl.h11.NEED_DATA  # type: ignore[attr-defined]


class TurnControl(FlowControl):
    """Reads nothing more while what has come waits for its turn, whoever asks."""

    is_waiting = False

    def resume_reading(self) -> None:
        if not self.is_waiting:
            super().resume_reading()


class Connection(H11Protocol):
    """A connection that is closed when it neither has a request under way nor brings a whole head in time.

    The rest of a body that nobody wanted is let in, and forgotten, for as long: a sender must come to read the answer.

    Connections take turns: a read of 256 KiB may hold a body in pieces of one byte, which take a second to look at.
    """

    flow: TurnControl
    _end: asyncio.TimerHandle | None = None
    _turn: asyncio.Handle | None = None
    _num_left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = TurnControl(transport)
        self._next_event = self.conn.next_event
        self.conn.next_event = self._take_event  # type: ignore[method-assign]
        self._wait_for_head()

    def handle_events(self) -> None:
        self._num_left = PIECES_AT_ONCE
        super().handle_events()
        if self._is_answering():
            self._stop_waiting()
        if self._num_left < 0 and self._turn is None:
            self.flow.is_waiting = self.flow.read_paused = True
            self.transport.pause_reading()
            self._turn = self.loop.call_soon(self._go_on)

    def _take_event(self) -> Any:
        """Return the next piece; once this turn's are used up, say that nothing has come yet."""
        self._num_left -= 1
        return self._next_event() if self._num_left >= 0 else NEED_DATA

    def _go_on(self) -> None:
        self._turn, self.flow.is_waiting = None, False
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.handle_events()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_answering():  # the next request may have come already
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._turn is not None:
            self._turn.cancel()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._end = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
