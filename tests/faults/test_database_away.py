"""A11: the database is locked, restarts or falls silent while runs go on."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.faults.conftest import Wiring
from tests.faults.house import House
from tests.faults.servers import Postgres
from tests.waiting import wait_until

STEPS = 400


@contextmanager
def locked(house: House) -> Iterator[None]:
    """Somebody else's write transaction on the SQLite file."""
    other = sqlite3.connect(house.settings.root / "studio.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def num_spooled(house: House, run_id: str) -> int:
    return (house.files.attempt_dir(run_id, 1) / "events.jsonl").read_bytes().count(b"\n")


def assert_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert "try again" in answer.json()["detail"]


def launch_together(house: House, num_requests: int) -> list[tuple[httpx.Response, float]]:
    """The answers to launches sent at once, and how many seconds each took."""
    answers: list[tuple[httpx.Response, float]] = []

    def send() -> None:
        with httpx.Client(base_url=house.url, headers=house.headers, timeout=120, verify=False) as client:
            began = time.monotonic()
            answer = client.post("/api/v1/runs", json=house.recipe)
            answers.append((answer, time.monotonic() - began))

    threads = [threading.Thread(target=send) for _ in range(num_requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.soak
def test_a_locked_sqlite_answers_503_to_writers_and_readers_and_runner_go_on(embedded: House) -> None:
    """Locked for 20 s: four launches at once are told to come again, none waits behind the others; no metric is lost."""
    embedded.start_web()
    worker = embedded.start_worker(f"steps={STEPS}", "pause=0.1")
    run_id = embedded.launch()
    embedded.wait_for_step(run_id, 3)
    answers: list[tuple[httpx.Response, float]] = []
    with locked(embedded):
        began = time.monotonic()
        spooled = num_spooled(embedded, run_id)
        writers = threading.Thread(target=lambda: answers.extend(launch_together(embedded, 4)))
        writers.start()
        while time.monotonic() - began < 20 or writers.is_alive():
            for path in ("/healthz", "/", f"/runs/{run_id}", f"/api/v1/runs/{run_id}/events"):
                assert embedded.http.get(path).status_code == 200, path
            time.sleep(0.5)
        assert num_spooled(embedded, run_id) > spooled + 10
    writers.join()
    for answer, seconds in answers:
        assert_unavailable(answer)
        assert seconds < 60
    assert embedded.wait_for_end(run_id)["attempt"] == 1
    embedded.assert_whole(run_id, steps=STEPS)
    assert worker.poll() is None
    later = embedded.launch()
    assert embedded.http.post(f"/api/v1/runs/{later}/cancel").status_code == 202


def test_a_lock_longer_than_the_lease_takes_no_run_from_a_worker_that_lives(embedded: House) -> None:
    """Two workers whose leases of 4 s run out while the database is locked for 8: nobody could renew, so nobody is dead."""
    embedded.start_web()
    for _ in range(2):
        embedded.start_worker("steps=250", "pause=0.05")
    run_ids = [embedded.launch() for _ in range(2)]
    for run_id in run_ids:
        embedded.wait_for_step(run_id, 3)
    time.sleep(5)  # past the workers' own first lease, in which they take back nothing
    with locked(embedded):
        time.sleep(8)
    for run_id in run_ids:
        embedded.wait_for_end(run_id)
        embedded.assert_whole(run_id, steps=250)


def watch_unavailable(house: House, until: Callable[[], bool]) -> list[httpx.Response]:
    """Launches and reads while the database is away: each must be an answer."""
    found = []
    while not until():
        found += [house.http.post("/api/v1/runs", json=house.recipe), house.http.get("/api/v1/runs")]
        assert house.http.get("/healthz").status_code == 200
        time.sleep(0.2)
    return found


def test_a_postgresql_that_restarts_in_the_middle_of_a_run_costs_neither_attempt_nor_metric(
    served: tuple[House, Wiring], postgres_server: Postgres
) -> None:
    house, _ = served
    house.start_web()
    worker = house.start_worker("steps=300", "wait@12")
    run_id = house.launch()
    house.wait_for_step(run_id, 10)
    postgres_server.stop()
    try:
        spooled = num_spooled(house, run_id)
        (house.files.run_dir(run_id) / "go").touch()
        until = time.monotonic() + 6  # longer than the lease
        answers = watch_unavailable(house, lambda: time.monotonic() > until and num_spooled(house, run_id) > spooled)
    finally:
        postgres_server.start()
    for answer in answers:
        assert_unavailable(answer)
    assert house.wait_for_end(run_id)["attempt"] == 1
    house.assert_whole(run_id, steps=300)
    assert worker.poll() is None


@pytest.mark.soak
def test_a_postgresql_that_falls_silent_holds_no_request_for_long_and_costs_no_metric(
    served: tuple[House, Wiring],
) -> None:
    """The connections stand, and nothing comes back: what a broken switch or a frozen server looks like."""
    house, wiring = served
    house.start_web()
    worker = house.start_worker("steps=200", "pause=0.1")
    run_id = house.launch()
    house.wait_for_step(run_id, 3)
    wiring.database.swallow()
    spooled = num_spooled(house, run_id)
    began = time.monotonic()
    answers = launch_together(house, 12)
    print(f"503 after {max(seconds for _, seconds in answers):.1f} s at most while PostgreSQL is silent")
    for answer, seconds in answers:
        assert_unavailable(answer)
        assert seconds < 70
    assert house.http.get("/healthz").status_code == 200
    assert num_spooled(house, run_id) > spooled
    wiring.database.pass_on()
    wait_until(lambda: house.http.get("/api/v1/runs").status_code == 200, what="the return of the API")
    assert house.wait_for_end(run_id)["attempt"] == 1
    house.assert_whole(run_id, steps=200)
    assert worker.poll() is None
    assert time.monotonic() - began > 20


def test_connections_to_postgresql_that_are_cut_every_second_cost_no_metric(served: tuple[House, Wiring]) -> None:
    house, wiring = served
    house.start_web()
    house.start_worker("steps=200", "pause=0.03")
    run_id = house.launch()
    for _ in range(6):
        time.sleep(1)
        wiring.database.cut()
    run = house.wait_for_end(run_id)
    assert run["attempt"] == 1
    house.assert_whole(run_id, steps=200)
