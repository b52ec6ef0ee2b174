"""The hint queue: sent after the commit, never in the way."""

import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from redis import Redis

from app.settings import Settings
from app.store.database import Database
from app.store.signals.hints import KEEP_MESSAGES, QUEUE_NAME, HintQueue
from tests.timing import Clock
from tests.waiting import wait_until


def count_messages(settings: Settings) -> int:
    with closing(sqlite3.connect(settings.root / "broker.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM kombu_message").fetchone()[0])


def wait_for_messages(settings: Settings, number: int) -> None:
    wait_until(lambda: count_messages(settings) >= number, f"{number} messages")


def test_a_hint_is_sent_after_the_commit_only(settings: Settings, database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            database.hints.send_after_commit(session, "run_lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.writing() as session:
        database.hints.send_after_commit(session, "run_kept")
    wait_for_messages(settings, 1)
    time.sleep(0.1)
    assert count_messages(settings) == 1


def test_what_waits_is_sent_before_the_queue_closes_and_nothing_is_written_afterwards(settings: Settings) -> None:
    queue = HintQueue(settings)
    queue.prepare()
    queue.send("run_last")
    queue.close()
    assert count_messages(settings) == 1
    shutil.rmtree(settings.root)


def test_a_crowd_of_launches_sends_a_few_hints_and_a_preview_always_one(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(database.hints, "_publish", sent.append)
    runs = [f"run_{number}" for number in range(100)]
    for hint in [*runs[:50], "preview", *runs[50:]]:
        database.hints.send(hint)
    wait_until(lambda: "run_99" in sent and "preview" in sent, "the last hint")
    assert len(sent) <= 20  # all come within a few pauses of the sender
    assert sent.count("preview") == 1


def test_the_tables_we_make_are_the_ones_the_transport_would_make(settings: Settings) -> None:
    from kombu import Connection
    from sqlalchemy import create_engine, inspect

    ours, theirs = settings.root / "broker.db", settings.root / "theirs.db"
    queue = HintQueue(settings)
    queue.prepare()
    with Connection(f"sqla+sqlite:///{theirs}") as connection, connection.SimpleQueue("any") as simple:
        simple.put({"a": 1})

    def describe(path: object) -> object:
        inspector = inspect(create_engine(f"sqlite:///{path}"))
        return {
            table: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)],
                sorted(str(index["column_names"]) for index in inspector.get_indexes(table)),
            )
            for table in ("kombu_queue", "kombu_message")
        }

    assert describe(ours) == describe(theirs)
    queue.close()


def test_the_queue_is_there_before_worker_and_sender_would_race_for_it(settings: Settings) -> None:
    for _ in range(2):
        HintQueue(settings).prepare()
    with closing(sqlite3.connect(settings.root / "broker.db")) as connection:
        assert connection.execute("SELECT name FROM kombu_queue").fetchall() == [(QUEUE_NAME,)]


def test_only_the_newest_waiting_messages_are_kept(settings: Settings) -> None:
    queue = HintQueue(settings)
    queue.prepare()
    with closing(sqlite3.connect(settings.root / "broker.db")) as connection, connection:
        rows = [(number % 2,) for number in range(2 * KEEP_MESSAGES + 500)]
        connection.executemany("INSERT INTO kombu_message (visible, payload, version, queue_id) VALUES (?, '{}', 1, 1)", rows)
    queue.prune()
    assert 0 < count_messages(settings) <= KEEP_MESSAGES


@pytest.mark.parametrize("broker_url", ["redis://127.0.0.1:1/0", ""])
def test_a_broker_that_is_away_delays_nobody_and_is_logged(
    settings: Settings, broker_url: str, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    queue = HintQueue(settings.model_copy(update={"broker_url": broker_url}))
    if not broker_url:
        (settings.root / "broker.db").mkdir(parents=True)  # no file can be opened there
    with clock.within(0.1):
        queue.send("run_1")
    wait_until(lambda: "was not sent" in caplog.text, "the line in the log")
    queue.close()


def test_a_valkey_gets_its_hints_as_a_redis_does(settings: Settings, redis_url: str) -> None:
    queue = HintQueue(settings.model_copy(update={"broker_url": redis_url.replace("redis:", "valkey:")}))
    assert queue.is_reachable()
    queue.send("run_1")
    with Redis.from_url(redis_url) as redis:
        wait_until(lambda: redis.llen(QUEUE_NAME), "a hint in Redis")
    queue.close()


def test_only_the_scheme_of_the_brokers_address_is_spelled_anew(settings: Settings) -> None:
    for given, meant in (
        ("valkey://valkey:6379/0", "redis://valkey:6379/0"),
        ("redis://valkey:6379/0", "redis://valkey:6379/0"),
        ("rediss://user:valkey@host/1", "rediss://user:valkey@host/1"),
        ("amqp://valkey", ""),
        ("", ""),
    ):
        assert settings.model_copy(update={"broker_url": given}).redis_url == meant
