"""The bell: tells waiting streams that a run's journal, or what is told of a chat, has grown. A lost bell costs a moment.

The truth is `last_seq` of the run or chat. One shared watcher per process reads it for all that somebody waits for: whenever a
bell arrives through Redis, or SQLite says that another process has committed (asked fifty times a second, which costs next to
nothing), and now and then in case one was lost.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from app.domain.errors import Unavailable
from app.settings import Settings
from app.store.signals.after_commit import after_commit
from app.store.tables import Chat, Run

if TYPE_CHECKING:  # imported where it is used: a studio without Redis is spared its megabytes
    from redis import Redis
    from redis.asyncio.client import PubSub

CHANNEL = "studio:bell"
POLL_SECONDS = 0.25
SAFETY_POLL_SECONDS = 2.0  # with Redis
QUIET_PING_SECONDS, PONG_SECONDS = 15.0, 5.0
GLANCE_SECONDS = 0.02  # at SQLite's counter of commits, while somebody waits
QUIET_SECONDS = 0.02  # bells that come together are answered by one look

log = logging.getLogger(__name__)


class JournalReader(Protocol):
    """The part of the database that the bell needs."""

    def reading(self) -> AbstractContextManager[Session]: ...


def part_by_table(ids: set[str]) -> list[tuple[type[Run] | type[Chat], set[str]]]:
    """Return which of the ids are runs', and which chats'."""
    chats = {one for one in ids if one.startswith("chat_")}
    return [(Run, ids - chats), (Chat, chats)]


class CommitCounter:
    """SQLite's counter of the commits of others, in memory that all its processes share: a glance takes microseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._known = 0

    def has_moved(self) -> bool:
        """Return whether another connection has committed since the last glance. False, too, when it can't be told."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
            before, self._known = self._known, int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            return False
        return self._known != before

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Bell:
    """Rings from any thread of any process; waits in the event loop of one."""

    def __init__(self, settings: Settings, database: JournalReader) -> None:
        self._database = database
        self._url = settings.redis_url
        path = make_url(settings.sqlalchemy_url).database if settings.sqlalchemy_url.startswith("sqlite") else None
        self._commits = CommitCounter(Path(path)) if path else None
        self._redis: Redis | None = None
        self._unsent: set[str] = set()
        self._lock = threading.Lock()
        self._ringer: threading.Thread | None = None
        self._waiters: dict[asyncio.Future[bool], tuple[str, int]] = {}
        self._wanted = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def ring_after_commit(self, session: Session, run_id: str) -> None:
        """Once the transaction is committed, wake whoever waits for this run, in any process."""
        after_commit(session, ("bell", run_id), lambda: self.ring(run_id))

    def ring(self, run_id: str) -> None:
        """Wake waiters of this process at once, those of others through Redis where there is one.

        Redis is told from a thread of its own: one that doesn't answer must delay neither a request nor a worker's loop.
        """
        self._ring_here()
        if self._url:
            with self._lock:
                self._unsent.add(run_id)
                if self._ringer is None:
                    self._ringer = threading.Thread(target=self._ring_others, name="bells", daemon=True)
                    self._ringer.start()

    def _ring_others(self) -> None:
        from redis import Redis, RedisError

        while True:
            with self._lock:
                run_ids, self._unsent = self._unsent, set()
                if not run_ids:
                    self._ringer = None
                    return
            try:
                self._redis = self._redis or Redis.from_url(self._url, socket_timeout=1, socket_connect_timeout=1)
                with self._redis.pipeline(transaction=False) as pipeline:
                    for run_id in run_ids:
                        pipeline.publish(CHANNEL, run_id)
                    pipeline.execute()
            except RedisError as error:
                log.warning("the bells of %d runs did not reach Redis: %s", len(run_ids), error)

    def _ring_here(self) -> None:
        loop, rung = self._loop, self._rung
        if loop is not None and rung is not None and self._waiters:
            with suppress(RuntimeError):  # the loop is closing: nobody waits any more
                loop.call_soon_threadsafe(rung.set)

    async def start(self) -> None:
        """Begin to watch, in the running event loop. `wait` does it too, when nobody has."""
        if self._tasks:
            return
        self._loop, self._rung = asyncio.get_running_loop(), asyncio.Event()
        self._tasks = [asyncio.create_task(self._watch(self._rung))]
        if self._url:
            self._tasks.append(asyncio.create_task(self._listen(self._rung)))

    async def stop(self) -> None:
        """Stop watching; everybody who waits is told that nothing happened."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._loop, self._rung = [], None, None
        if self._commits is not None:
            self._commits.close()
        self._answer(lambda _run_id, _seq: False, everybody=True)

    async def wait(self, run_id: str, seen_seq: int, timeout_seconds: float) -> bool:
        """Wait until the run's journal has an event after `seen_seq`; False when the time is over first."""
        await self.start()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[future] = (run_id, seen_seq)
        self._wanted = True
        try:
            return await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return False
        finally:
            self._waiters.pop(future, None)

    async def _watch(self, rung: asyncio.Event) -> None:
        interval = SAFETY_POLL_SECONDS if self._url else POLL_SECONDS
        while True:
            has_news = await self._until_news(rung, interval)
            rung.clear()
            if not self._waiters:
                self._wanted = has_news  # who was just answered gets a whole interval to come back
                continue
            try:
                last = await asyncio.to_thread(self._last_seqs, {run_id for run_id, _ in self._waiters.values()})
            except Unavailable:
                await asyncio.sleep(1)
                continue
            # A run that is gone wakes its waiters too: they look, and find out.
            self._answer(lambda run_id, seen, last=last: last.get(run_id, seen + 1) > seen)  # type: ignore[misc]

    async def _until_news(self, rung: asyncio.Event, interval: float) -> bool:
        """True at a bell, or a commit of another process; False after `interval` without any."""
        glances = self._commits is not None and self._wanted
        over = asyncio.get_running_loop().time() + interval
        while (left := over - asyncio.get_running_loop().time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, GLANCE_SECONDS) if glances else left):  # wait_for may lose a cancellation
                    await rung.wait()
                await asyncio.sleep(QUIET_SECONDS)
                return True
            if glances and self._commits is not None and self._commits.has_moved():
                return True
        return False

    def _last_seqs(self, run_ids: set[str]) -> dict[str, int]:
        with self._database.reading() as session:
            queries = [select(table.id, table.last_seq).where(table.id.in_(ids)) for table, ids in part_by_table(run_ids) if ids]
            return {row.id: row.last_seq for query in queries for row in session.execute(query)}

    def _answer(self, is_news: Callable[[str, int], bool], *, everybody: bool = False) -> None:
        for future, (run_id, seen) in list(self._waiters.items()):
            news = is_news(run_id, seen)
            if (news or everybody) and not future.done():
                future.set_result(news)

    @staticmethod
    async def _hears(pubsub: "PubSub") -> bool:
        """True for each message. A connection that died without a word looks like silence: a ping tells them apart."""
        from redis import ConnectionError as RedisConnectionError

        if await pubsub.get_message(timeout=QUIET_PING_SECONDS) is None:
            await pubsub.ping()
            if await pubsub.get_message(timeout=PONG_SECONDS) is None:
                raise RedisConnectionError("it does not answer a ping")
        return True

    async def _listen(self, rung: asyncio.Event) -> None:
        from redis import RedisError
        from redis.asyncio import Redis as AsyncRedis

        while True:
            try:
                async with AsyncRedis.from_url(self._url, socket_connect_timeout=2) as redis, redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    while await self._hears(pubsub):
                        rung.set()
            except RedisError as error:
                log.warning("Redis can't be heard, so streams look every %s s: %s", SAFETY_POLL_SECONDS, error)
                await asyncio.sleep(SAFETY_POLL_SECONDS)
