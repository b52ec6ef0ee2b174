"""A7, A8, A9: the broker carries hints only. Whatever it loses, repeats or forgets, every run runs once."""

import signal
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
import redis

from tests.faults.conftest import Wiring
from tests.faults.house import House
from tests.faults.servers import Redis
from tests.timing import Clock
from tests.waiting import END_SECONDS, wait_until

SHORT_SIGHTED = Path(__file__).with_name("short_sighted_worker.py")
DEFAULT_POLL = {"poll_seconds": "2", "heartbeat_seconds": "5", "lease_seconds": "30"}  # what users have


def seconds_until_begun(run: dict[str, str]) -> float:
    return (datetime.fromisoformat(run["started_at"]) - datetime.fromisoformat(run["queued_at"])).total_seconds()


def test_with_redis_stopped_a_launch_is_accepted_and_begins_within_five_seconds(served: tuple[House, Wiring]) -> None:
    house, wiring = served
    house.start_web()
    house.start_worker(**DEFAULT_POLL)
    wiring.broker.refuse()
    run_id = house.launch()  # 202, or it fails
    run = house.wait_for_end(run_id)
    assert seconds_until_begun(run) <= 5
    house.assert_whole(run_id)


def test_a_redis_that_is_killed_in_the_middle_of_a_run_changes_nothing(served: tuple[House, Wiring], redis_server: Redis) -> None:
    house, _ = served
    house.start_web()
    worker = house.start_worker("steps=100")
    run_id = house.launch()
    house.wait_for_step(run_id, 10)
    redis_server.stop(signal.SIGKILL)
    try:
        house.wait_for_end(run_id)
        house.assert_whole(run_id, steps=100)
        assert worker.poll() is None
    finally:
        redis_server.start()
    later = house.launch()
    house.wait_for_end(later)
    house.assert_whole(later, steps=100)


def test_twenty_queued_runs_outlive_a_flush_of_redis(served: tuple[House, Wiring], redis_server: Redis) -> None:
    house, _ = served
    house.start_web()
    run_ids = [house.launch() for _ in range(20)]
    client = redis.Redis.from_url(house.settings.broker_url)
    wait_until(lambda: client.llen("studio") > 0, what="the arrival of a hint in Redis")
    time.sleep(1)  # hints for a crowd come in few messages; the last of them too
    wait_until(lambda: client.flushall() and client.dbsize() == 0, what="an empty Redis")
    for _ in range(2):
        house.start_worker("pause=0.001", worker_slots="4")
    for run_id in run_ids:
        house.wait_for_end(run_id)
        house.assert_whole(run_id)


def test_a_broker_that_repeats_each_message_five_times_begins_each_run_once(
    make_served: Callable[..., tuple[House, Wiring]],
) -> None:
    house, _ = make_served(repeats=5)
    house.start_web()
    ready = house.launch()
    client = redis.Redis.from_url(house.settings.broker_url)
    wait_until(lambda: client.llen("studio") == 5, what="the arrival of five copies of one hint")
    run_by_eight(house, [ready, *(house.launch() for _ in range(15))])


@pytest.mark.soak
def test_an_embedded_broker_that_repeats_each_message_five_times_begins_each_run_once(embedded: House) -> None:
    columns = "visible, timestamp, payload, version, queue_id"
    copies = " UNION ALL ".join([f"SELECT {', '.join(f'NEW.{name}' for name in columns.split(', '))}"] * 4)
    with closing(sqlite3.connect(embedded.settings.root / "broker.db")) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER repeat AFTER INSERT ON kombu_message BEGIN INSERT INTO kombu_message ({columns}) {copies}; END"
        )
    embedded.start_web()
    ready = embedded.launch()

    def count() -> int:
        with closing(sqlite3.connect(embedded.settings.root / "broker.db")) as connection:
            return int(connection.execute("SELECT count(*) FROM kombu_message").fetchone()[0])

    wait_until(lambda: count() == 5, what="the arrival of five copies of one hint")
    run_by_eight(embedded, [ready, *(embedded.launch() for _ in range(15))])


def run_by_eight(house: House, run_ids: list[str]) -> None:
    """Eight workers; half of the runs wait already, the others come while all listen."""
    for _ in range(8):
        house.start_worker("pause=0.005", wait=False)
    wait_until(lambda: len(house.worker_names()) == 8, what="the start of eight workers")
    run_ids = [*run_ids, *(house.launch() for _ in range(16))]
    for run_id in run_ids:
        house.wait_for_end(run_id)
        house.assert_whole(run_id)
    assert all(worker.poll() is None for worker in house.workers)


@pytest.mark.parametrize("from_the_start", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_a_broker_that_swallows_everything_delays_no_launch_and_loses_no_run(
    served: tuple[House, Wiring], from_the_start: bool, clock: Clock
) -> None:
    house, wiring = served
    if from_the_start:
        wiring.broker.swallow()
    house.start_web()
    for _ in range(2):
        house.start_worker("pause=0.005", worker_slots="2")
    wiring.broker.swallow()
    run_ids, times = [], []
    for _ in range(20):
        began = time.perf_counter()
        run_ids.append(house.launch())
        times.append(time.perf_counter() - began)
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"launches while Redis answers nothing: median {statistics.median(times) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")
    for run_id in run_ids:
        house.wait_for_end(run_id)
        house.assert_whole(run_id)
    clock.check(p95, 0.5)
    wiring.broker.pass_on()
    client = redis.Redis.from_url(house.settings.broker_url)
    before = client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0)
    last = house.launch()
    house.wait_for_end(last)
    wait_until(
        lambda: client.info("commandstats").get("cmdstat_lpush", {}).get("calls", 0) > before,
        what="a hint in Redis after the hole",
    )  # fmt: skip
    for worker in house.workers:  # a broker that is away must not keep a worker from stopping
        worker.send_signal(signal.SIGTERM)
    for worker in house.workers:
        assert worker.wait(END_SECONDS) == 0


@pytest.mark.parametrize(
    ("visibility_seconds", "steps"), [(1, 60), pytest.param(5, 1200, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
def test_a_run_longer_than_the_visibility_timeout_begins_once(
    served: tuple[House, Wiring], visibility_seconds: int, steps: int
) -> None:
    """6 s against 1 s; in the soak 120 s against 5 s. Hints are acknowledged before the run begins."""
    house, _ = served
    house.start_web()
    given = {"environment": {"VISIBILITY_SECONDS": str(visibility_seconds)}, "program": SHORT_SIGHTED}
    for _ in range(2):
        house.start_worker(f"steps={steps}", "pause=0.1", **given)  # type: ignore[arg-type]
    run_id = house.launch()
    began = time.monotonic()
    house.wait_for_end(run_id, seconds=END_SECONDS + steps * 0.2)
    assert time.monotonic() - began > 4 * visibility_seconds
    house.assert_whole(run_id, steps=steps)
