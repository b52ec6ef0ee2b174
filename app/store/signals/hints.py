"""The hint queue: Celery messages that say "look at the database", sent after the commit. Losing one costs seconds.

With Redis the messages go there; without, into a small SQLite file in the data folder (kombu's SQLAlchemy transport).
Messages are sent from a thread of their own, so that a slow or absent broker never delays a request.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any

from celery import Celery
from sqlalchemy.orm import Session

from app.settings import Settings
from app.store.signals.after_commit import after_commit

QUEUE_NAME = "studio"
WAKE_TASK = "worker.tasks.wake"
KEEP_MESSAGES = 1000  # of the embedded broker
IDLE_SECONDS = 5.0
SEND_SECONDS = 3.0  # a broker that takes a connection and answers nothing has had its chance
# A crowd of launches needs no crowd of hints: each wakes a worker, which then takes all it has room for.
MOST_AT_ONCE = 4
PAUSE_SECONDS = 0.1  # twice as long after each pause in which more came than is sent at once
LONGEST_PAUSE_SECONDS = 0.8
CLOSE = ""  # the last thing a sender is told

# The tables of kombu's SQLAlchemy transport. Made here, once and ahead, because several workers that start together
# would race to make them.
EMBEDDED_TABLES = """
CREATE TABLE IF NOT EXISTS kombu_queue (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name VARCHAR(200), UNIQUE (name));
CREATE TABLE IF NOT EXISTS kombu_message (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, visible BOOLEAN, timestamp DATETIME, payload TEXT NOT NULL,
    version SMALLINT NOT NULL, queue_id INTEGER,
    CONSTRAINT FK_kombu_message_queue FOREIGN KEY (queue_id) REFERENCES kombu_queue (id));
CREATE INDEX IF NOT EXISTS ix_kombu_message_visible ON kombu_message (visible);
CREATE INDEX IF NOT EXISTS ix_kombu_message_timestamp ON kombu_message (timestamp);
CREATE INDEX IF NOT EXISTS ix_kombu_message_timestamp_id ON kombu_message (timestamp, id);
"""
PRUNE = "DELETE FROM kombu_message WHERE visible = 0 OR id <= (SELECT max(id) FROM kombu_message) - ?"

log = logging.getLogger(__name__)


def celery_config(settings: Settings) -> dict[str, Any]:
    """Return what sender and worker agree on: JSON only, no results, early acknowledgement, one queue."""
    options: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    options |= {"socket_connect_timeout": 2} if settings.has_redis else {"connect_args": {"timeout": 5}}
    return {
        "broker_url": settings.celery_broker_url,
        "broker_transport_options": options,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_default_queue": QUEUE_NAME,
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_publish_retry": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
    }


class HintQueue:
    """Sends wake-up hints; failures are logged, never raised."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pending: SimpleQueue[str] = SimpleQueue()
        self._lock = threading.Lock()
        self._sender: threading.Thread | None = None

    @cached_property
    def _celery(self) -> Celery:
        app = Celery("studio", set_as_current=False)
        app.conf.update(celery_config(self.settings))
        if self.settings.has_redis:  # of the sender alone: a worker's connection is quiet until a hint comes
            app.conf.broker_transport_options = {**app.conf.broker_transport_options, "socket_timeout": SEND_SECONDS}
        return app

    @property
    def _is_embedded(self) -> bool:
        return not self.settings.broker_url

    def send_after_commit(self, session: Session, run_id: str) -> None:
        """Once the transaction is committed, tell the workers to look at this run."""
        after_commit(session, ("hint", run_id), lambda: self.send(run_id))

    def send(self, run_id: str) -> None:
        """Tell the workers to look at this run; returns at once."""
        with self._lock:
            self._pending.put(run_id)
            if self._sender is None:
                self._sender = threading.Thread(target=self._send_pending, name="hints", daemon=True)
                self._sender.start()

    def _send_pending(self) -> None:
        pause = PAUSE_SECONDS
        while True:
            try:
                first = self._pending.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._pending.empty():
                        self._sender = None
                        return
                continue
            waiting = self._gather(first)
            for hint in waiting:
                if hint != CLOSE:
                    self._publish(hint)
            if CLOSE in waiting:
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS) if len(waiting) >= MOST_AT_ONCE else PAUSE_SECONDS
            time.sleep(pause)

    def _gather(self, first: str) -> list[str]:
        """Return what waits with this hint: each once, and of those for runs only the newest few."""
        waiting = {first: None}
        with suppress(Empty):
            while True:
                waiting[self._pending.get_nowait()] = None
        runs = [hint for hint in waiting if hint.startswith("run_")]
        return [hint for hint in waiting if hint not in set(runs[:-MOST_AT_ONCE])]

    def _publish(self, run_id: str) -> None:
        try:
            self._celery.send_task(WAKE_TASK, args=[run_id], ignore_result=True, retry=False)
        except Exception as error:  # every transport raises its own kinds; a hint may be lost
            log.warning("the hint for run %s was not sent (workers will find it by themselves): %s", run_id, error)

    def prepare(self) -> None:
        """Make the embedded broker's tables and queue, and drop what is delivered or forgotten. Nothing to do with Redis.

        kombu's own making of the queue ends a worker that does it at the same moment as a sender.
        """
        if self._is_embedded:
            self.settings.root.mkdir(parents=True, exist_ok=True)
            self._execute([("PRAGMA journal_mode = WAL", ()), *((part, ()) for part in EMBEDDED_TABLES.split(";"))])
            self._execute([("INSERT OR IGNORE INTO kombu_queue (name) VALUES (?)", (QUEUE_NAME,))])
            self.prune()

    def prune(self) -> None:
        """Drop delivered messages and all but the newest waiting ones from the embedded broker."""
        if self._is_embedded:
            self._execute([(PRUNE, (KEEP_MESSAGES,))])

    def _execute(self, statements: Iterable[tuple[str, tuple[int | str, ...]]]) -> None:
        with closing(sqlite3.connect(self.settings.root / "broker.db", timeout=15, isolation_level=None)) as connection:
            for statement, values in statements:
                connection.execute(statement, values)

    def is_reachable(self) -> bool:
        """Return whether the broker answers within a second or two."""
        try:
            if self._is_embedded:
                self._execute([("SELECT 1 FROM kombu_queue", ())])
            elif self.settings.has_redis:
                from redis import Redis  # here: a studio without Redis is spared its megabytes

                with Redis.from_url(self.settings.redis_url, socket_timeout=1, socket_connect_timeout=1) as redis:
                    redis.ping()
            else:
                with self._celery.connection_for_write() as connection:
                    connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except Exception:  # every transport raises its own kinds
            return False
        return True

    def close(self) -> None:
        """Send what waits, as far as the broker takes it in a few seconds, and close the connections to the broker."""
        with self._lock:
            sender, self._sender = self._sender, None
            if sender is not None:
                self._pending.put(CLOSE)
        if sender is not None:
            sender.join(timeout=2 * SEND_SECONDS)
        if "_celery" in self.__dict__:
            self._celery.close()
