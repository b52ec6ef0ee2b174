"""The bell: tells waiting streams that a run's journal has grown. A lost bell costs a moment, never an event.

The truth is `runs.last_seq`. One shared watcher per process reads it for all runs somebody waits for: four times a second
without Redis; with Redis whenever a bell arrives there, and every few seconds in case one was lost.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Protocol

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import Unavailable
from app.settings import Settings
from app.store.after_commit import after_commit
from app.store.tables import Run

CHANNEL = "studio:bell"
POLL_SECONDS = 0.25
SAFETY_POLL_SECONDS = 2.0  # with Redis
QUIET_PING_SECONDS, PONG_SECONDS = 15.0, 5.0
QUIET_SECONDS = 0.02  # bells that come together are answered by one look

log = logging.getLogger(__name__)


class Readable(Protocol):
    """The part of the database that the bell needs."""

    def reading(self) -> AbstractContextManager[Session]: ...


class Bell:
    """Rings from any thread of any process; waits in the event loop of one."""

    def __init__(self, settings: Settings, database: Readable) -> None:
        self._database = database
        self._url = settings.broker_url.replace("valkey", "redis", 1) if settings.has_redis else ""
        self._redis: Redis | None = None
        self._unsent: set[str] = set()
        self._lock = threading.Lock()
        self._ringer: threading.Thread | None = None
        self._waiters: dict[asyncio.Future[bool], tuple[str, int]] = {}
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
        self._answer(lambda _run_id, _seq: False, everybody=True)

    async def wait(self, run_id: str, seen_seq: int, timeout_seconds: float) -> bool:
        """Wait until the run's journal has an event after `seen_seq`; False when the time is over first."""
        await self.start()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[future] = (run_id, seen_seq)
        try:
            return await asyncio.wait_for(future, timeout_seconds)
        except TimeoutError:
            return False
        finally:
            self._waiters.pop(future, None)

    async def _watch(self, rung: asyncio.Event) -> None:
        interval = SAFETY_POLL_SECONDS if self._url else POLL_SECONDS
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), interval)
                await asyncio.sleep(QUIET_SECONDS)
            rung.clear()
            if not self._waiters:
                continue
            try:
                last = await asyncio.to_thread(self._last_seqs, {run_id for run_id, _ in self._waiters.values()})
            except Unavailable:
                await asyncio.sleep(1)
                continue
            # A run that is gone wakes its waiters too: they look, and find out.
            self._answer(lambda run_id, seen, last=last: last.get(run_id, seen + 1) > seen)  # type: ignore[misc]

    def _last_seqs(self, run_ids: set[str]) -> dict[str, int]:
        with self._database.reading() as session:
            query = select(Run.id, Run.last_seq).where(Run.id.in_(run_ids))
            return {row.id: row.last_seq for row in session.execute(query)}

    def _answer(self, is_news: Callable[[str, int], bool], *, everybody: bool = False) -> None:
        for future, (run_id, seen) in list(self._waiters.items()):
            news = is_news(run_id, seen)
            if (news or everybody) and not future.done():
                future.set_result(news)

    @staticmethod
    async def _hears(pubsub: PubSub) -> bool:
        """True for each message. A connection that died without a word looks like silence: a ping tells them apart."""
        if await pubsub.get_message(timeout=QUIET_PING_SECONDS) is None:
            await pubsub.ping()
            if await pubsub.get_message(timeout=PONG_SECONDS) is None:
                raise RedisConnectionError("it does not answer a ping")
        return True

    async def _listen(self, rung: asyncio.Event) -> None:
        while True:
            try:
                async with AsyncRedis.from_url(self._url, socket_connect_timeout=2) as redis, redis.pubsub() as pubsub:
                    await pubsub.subscribe(CHANNEL)
                    while await self._hears(pubsub):
                        rung.set()
            except RedisError as error:
                log.warning("Redis can't be heard, so streams look every %s s: %s", SAFETY_POLL_SECONDS, error)
                await asyncio.sleep(SAFETY_POLL_SECONDS)
