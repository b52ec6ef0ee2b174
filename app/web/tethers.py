"""What a long answer hangs on: a stream, a download or an upload ends when the session or token that opened it does.

It was revoked, it expired, its user was disabled or removed. One look at the database every two seconds serves all that is
under way in this process; short answers are never looked after.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import StudioError, Unauthenticated
from app.store import accounts
from app.store.database import Database, now

LOOK_SECONDS = 2.0
LAST_WORD_SECONDS = 1.0

log = logging.getLogger(__name__)


class Tethers:
    """Middleware that cuts what is under way loose from the studio once its sign-in has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._watches: WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = WeakKeyDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with anyio.CancelScope() as cancel:
            exchange = Exchange(scope, receive, send, cancel, self._find_watch(scope["app"].state.database))
            try:
                await self.app(scope, exchange.receive, exchange.send)
            finally:
                exchange.watch.drop(exchange)
        if cancel.cancelled_caught:
            await exchange.end()

    def _find_watch(self, database: Database) -> "Watch":
        loop = asyncio.get_running_loop()
        if loop not in self._watches:
            self._watches[loop] = Watch(database)
        return self._watches[loop]


@dataclass(eq=False)
class Exchange:
    """A request on its way in and its answer on its way out."""

    scope: Scope
    _receive: Receive
    _send: Send
    cancel: anyio.CancelScope
    watch: "Watch"
    is_over: bool = False
    is_answering: bool = False
    is_event_stream: bool = False

    @property
    def token_id(self) -> str | None:
        """What the request came in by; None before that is known, and for strangers."""
        user = self.scope.get("state", {}).get("user")
        return None if user is None else str(user.token_id)

    async def receive(self) -> Message:
        """Raises Unauthenticated where a body goes on after its sender's sign-in."""
        message = await self._receive()
        if message.get("more_body", False):
            self.watch.add(self)
            if self.is_over:
                raise Unauthenticated("Your sign-in has ended meanwhile, so the rest isn't taken. Sign in again.")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self.is_event_stream = kind.startswith("text/event-stream")
        elif message.get("more_body", False) and not self.is_answering:
            self.is_answering = True  # from here on no session of the database is held, so it may be cut at any point
            self.watch.add(self)
        await self._send(message)

    def cut(self) -> None:
        self.is_over = True
        if self.is_answering:
            self.cancel.cancel()

    async def end(self) -> None:
        """Close a stream in good order, so that its reader comes back and is told why; of a file the end is missing, which
        shows.
        """
        log.info("an answer was cut: the sign-in that had asked for it has ended")
        if self.is_event_stream:
            with anyio.move_on_after(LAST_WORD_SECONDS):  # who has stopped reading doesn't hear it
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(eq=False)
class Watch:
    """All exchanges of one event loop that take long, and the task that looks after them while there are any."""

    database: Database
    exchanges: set[Exchange] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None

    def add(self, exchange: Exchange) -> None:
        if exchange.token_id is None:
            return
        self.exchanges.add(exchange)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_after())

    def drop(self, exchange: Exchange) -> None:
        self.exchanges.discard(exchange)
        if not self.exchanges and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            token_ids = {exchange.token_id for exchange in self.exchanges if exchange.token_id is not None}
            try:
                good = await run_in_threadpool(find_good, self.database, token_ids)
            except StudioError:  # the database is away: they stay until it can be asked
                continue
            for exchange in [exchange for exchange in self.exchanges if exchange.token_id not in good]:
                exchange.cut()


def find_good(database: Database, token_ids: set[str]) -> set[str]:
    with database.reading() as session:
        return accounts.list_good_tokens(session, token_ids, now(session))
