"""The bell: who waits is woken, with Redis and without."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from app.domain.events import LogWritten
from app.services import runs as services
from app.settings import Settings
from app.store import journal, runs
from app.store.database import Database
from app.store.signals.bell import Bell
from tests.conftest import Library
from tests.timing import Clock
from tests.waiting import END_SECONDS, wait_until


@pytest.fixture
def run_id(database: Database, library: Library) -> str:
    with database.writing() as session:
        return services.launch(session, library.user.id, library.recipe()).id


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by himself: what is heard has rung."""
    monkeypatch.setattr("app.store.signals.bell.POLL_SECONDS", 600.0)


def append(database: Database, run_id: str) -> None:
    with database.writing() as session:
        journal.append(session, runs.lock_run(session, run_id), [LogWritten(level="info", text="news")])


def wait_while(bell: Bell, act: Callable[[], object], wait: Callable[[], Awaitable[bool]]) -> tuple[bool, float]:
    """What `wait` answers and how long it takes when `act` happens elsewhere 0.3 s after its start."""

    async def both() -> tuple[bool, float]:
        timer = threading.Timer(0.3, act)
        began = time.perf_counter()  # first: on a busy machine the timer is well on its way before this goes on
        timer.start()
        answer = await wait()
        seconds = time.perf_counter() - began
        await bell.stop()
        timer.join()
        return answer, seconds

    return asyncio.run(both())


def test_a_bell_in_the_same_process_is_heard_at_once(database: Database, run_id: str, clock: Clock) -> None:
    news, seconds = wait_while(
        database.bell, lambda: append(database, run_id), lambda: database.bell.wait(run_id, 1, END_SECONDS)
    )
    assert news
    assert seconds > 0.3
    clock.check(seconds, 0.5)


def test_an_event_of_another_process_is_noticed_by_looking(
    settings: Settings, database: Database, run_id: str, clock: Clock
) -> None:
    other = Database(settings)  # its bell reaches nobody here
    news, seconds = wait_while(database.bell, lambda: append(other, run_id), lambda: database.bell.wait(run_id, 1, END_SECONDS))
    assert news
    clock.check(seconds, 1)
    other.close()


def test_waiting_ends_without_news_when_the_time_is_over(database: Database, run_id: str, clock: Clock) -> None:
    news, seconds = wait_while(database.bell, lambda: None, lambda: database.bell.wait(run_id, 1, 0.6))
    assert not news
    assert seconds >= 0.6
    clock.check(seconds, 1)


def test_news_that_came_before_the_wait_is_noticed(database: Database, run_id: str, clock: Clock) -> None:
    append(database, run_id)
    news, seconds = wait_while(database.bell, lambda: None, lambda: database.bell.wait(run_id, 1, END_SECONDS))
    assert news
    clock.check(seconds, 0.6)


def test_a_deleted_run_wakes_its_waiters(database: Database) -> None:
    news, _ = wait_while(database.bell, lambda: None, lambda: database.bell.wait("run_gone", 1, END_SECONDS))
    assert news


def test_a_hundred_waiters_are_answered_by_one_look_at_a_time(
    database: Database, run_id: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    looks: list[set[str]] = []
    look = database.bell._last_seqs

    def counted(run_ids: set[str]) -> dict[str, int]:
        looks.append(run_ids)
        return look(run_ids)

    monkeypatch.setattr(database.bell, "_last_seqs", counted)

    async def wait_all() -> bool:
        return all(await asyncio.gather(*(database.bell.wait(run_id, 1, END_SECONDS) for _ in range(100))))

    news, seconds = wait_while(database.bell, lambda: append(database, run_id), wait_all)
    assert news
    clock.check(seconds, 1)
    assert len(looks) < 6


@pytest.mark.box
def test_with_redis_another_process_is_heard_at_once(
    settings: Settings, database: Database, run_id: str, redis_url: str, clock: Clock
) -> None:
    with_redis = settings.model_copy(update={"broker_url": redis_url})
    here, elsewhere = Database(with_redis), Database(with_redis)
    news, seconds = wait_while(here.bell, lambda: append(elsewhere, run_id), lambda: here.bell.wait(run_id, 1, END_SECONDS))
    assert news
    clock.check(seconds, 0.6)
    here.close()
    elsewhere.close()


def test_without_the_redis_it_should_have_a_bell_is_late_but_rings(
    settings: Settings, database: Database, run_id: str, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    lost = Database(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    elsewhere = Database(settings)
    news, seconds = wait_while(lost.bell, lambda: append(elsewhere, run_id), lambda: lost.bell.wait(run_id, 1, END_SECONDS))
    assert news
    clock.check(seconds, 3)
    append(lost, run_id)
    wait_until(lambda: "did not reach Redis" in caplog.text, "the line in the log")
    lost.close()
    elsewhere.close()


def test_without_redis_a_commit_of_another_process_is_heard_long_before_the_next_look(
    settings: Settings, database: Database, run_id: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr("app.store.signals.bell.POLL_SECONDS", 600.0)  # the clock: only SQLite's counter can tell in time
    other = Database(settings)
    heard, seconds = wait_while(
        database.bell, lambda: append(other, run_id), lambda: database.bell.wait(run_id, 1, timeout_seconds=END_SECONDS)
    )
    other.close()
    assert heard
    clock.check(seconds, 20)
