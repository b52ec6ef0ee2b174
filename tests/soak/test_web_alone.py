"""The web alone, the last part of `make soak`: readers come and go on a run that goes on and on, and its memory stays flat."""

import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.domain.events import SpoolLine
from app.services import attempts, recordings
from app.services import runs as services
from app.store.database import Database
from app.store.tables import User
from tests.box.tiny import write_models
from tests.soak.growth import Growth
from tests.soak.test_soak import MINUTES, SAMPLE_SECONDS, SEED, prepare
from tests.soak.town import Town
from tests.soak.traffic import Traffic

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

SHARE = 0.1  # of the minutes
NUM_READERS = 20
LINES_SECONDS = 0.1
PAGES = ("/", "/runs", "/datasets", "/api/v1/runs", "/metrics", "/runs/{run}", "/api/v1/runs/{run}/metrics?points=500")


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path, "embedded")
    write_models(town.models)
    return town


def test_the_web_stays_flat_while_readers_come_and_go(town: Town) -> None:
    stopping, growth = threading.Event(), Growth()
    try:
        town.start(num_workers=0)
        traffic = Traffic(town, prepare(town, town.folder), SEED)
        database = Database(town.settings)
        run_id = launch(town, traffic)
        threads = [threading.Thread(target=write, args=(database, run_id, stopping))]
        threads += [threading.Thread(target=read, args=(traffic, run_id, f"{SEED}-{n}", stopping)) for n in range(NUM_READERS)]
        threads += [threading.Thread(target=browse, args=(traffic, run_id, stopping))]
        for thread in threads:
            thread.start()
        watch(town, growth, MINUTES * 60 * SHARE)
        stopping.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a reader hangs"
        with town.client() as client:
            last_seq = client.get(f"/api/v1/runs/{run_id}").json()["last_seq"]
        assert town.web is not None
        assert town.web.stop(20) in (0, -15)
        database.close()
    finally:
        stopping.set()
        town.stop()
    (series,) = growth.longest()
    counts = traffic.counts
    print(f"\n== the web alone: {last_seq} entries written, {counts.connections} connections, {counts.entries} read ==")
    print("  " + series.describe())
    assert counts.unexpected == []
    assert series.faults() == []


def watch(town: Town, growth: Growth, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        growth.sample(town.pids())
        time.sleep(SAMPLE_SECONDS)


def launch(town: Town, traffic: Traffic) -> str:
    with town.client() as client:
        traffic.launch(client, random.Random(SEED), 1, is_real=False)
    return next(iter(traffic.runs))


def write(database: Database, run_id: str, stopping: threading.Event) -> None:
    """What a worker does to the database while a run goes on, without end."""
    with database.writing() as session:
        claim = attempts.begin(session, "writer", lease_seconds=10**6)
        assert claim is not None
        attempts.open_spool(session, claim)
    number = 0
    while not stopping.wait(LINES_SECONDS):
        number += 1
        payload = {
            "step": number, "num_steps": 10**6, "epoch": 0.0, "batch": number - 1, "metrics": {"loss": 1.0 / number},
            "histogram": [0, 1], "seconds_left": 1.0,
        }  # fmt: skip
        line = SpoolLine(n=number, at=datetime.now(UTC).isoformat(), kind="step", payload=payload)
        with database.writing() as session:
            recordings.record(session, run_id, claim.token, [line])
    with database.reading() as session:
        owner = session.query(User).first()
    assert owner is not None
    with database.writing() as session:
        services.request_cancel(session, owner.id, run_id)


def read(traffic: Traffic, run_id: str, seed: str, stopping: threading.Event) -> None:
    """Connect, read some seconds, leave without a word; now from where it left, now from the beginning."""
    chance, seen = random.Random(seed), 0
    with traffic.town.client() as client:
        while not stopping.is_set():
            seen, _ = traffic.follow(client, run_id, chance.choice([0, seen, seen]), seconds=chance.uniform(0.2, 6))


def browse(traffic: Traffic, run_id: str, stopping: threading.Event) -> None:
    with traffic.town.client() as client:
        while not stopping.wait(0.5):
            for page in PAGES:
                answer = client.get(page.format(run=run_id))
                if answer.status_code != 200:
                    traffic.note(f"{page}: {answer.status_code}")
