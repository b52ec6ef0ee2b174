"""A12: dead workers are found, each run is taken back once, and a worker that lives is never taken for dead."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.services import attempts
from app.services import runs as services
from app.store import workers
from app.store.database import now
from tests import warm
from tests.conftest import CHECKOUT
from tests.faults.conftest import SERVERS_IN_SOAK
from tests.faults.house import House
from tests.waiting import wait_until

CLAIM_AND_DIE = """
import os, signal
from app.services import attempts
from app.settings import Settings
from app.store.database import Database
with Database(Settings()).writing() as session:
    attempts.begin(session, "short-lived", 4)
os.kill(os.getpid(), signal.SIGKILL)
"""
REAPER = Path(__file__).with_name("reaper.py")
NUM_DEAD = 100


def test_a_worker_that_dies_before_its_first_heartbeat_is_noticed_and_its_run_goes_on(house: House) -> None:
    """It had claimed a run and never wrote itself into the list of workers."""
    house.start_web()
    run_id = house.launch()
    done = subprocess.run([sys.executable, "-c", CLAIM_AND_DIE], env=house.environment(), cwd=CHECKOUT, check=False)
    assert done.returncode == -9
    run = house.run(run_id)
    assert (run["state"], run["worker_id"], house.worker_names()) == ("running", "short-lived", [])
    house.start_worker()
    house.wait_for_end(run_id)
    house.assert_whole(run_id, attempts=2)
    assert house.states(run_id) == ["queued", "running", "interrupted", "queued", "running", "succeeded"]


def test_of_a_hundred_dead_runs_two_reapers_queue_each_once(house: House) -> None:
    house.start_web()
    with house.database.writing() as session:
        recipe = house.library.recipe()
        run_ids = [services.launch(session, house.library.user.id, recipe).id for _ in range(NUM_DEAD)]
        for _ in run_ids:
            assert attempts.begin(session, "dead", 0.0) is not None
    go = house.folder / "go"
    reapers = [
        warm.Popen(
            [sys.executable, str(REAPER), str(go)], env=house.environment(), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for reaper in reapers:
        assert reaper.stdout is not None
        assert reaper.stdout.readline() == "ready\n"
    go.touch()
    taken = [reaper.communicate(timeout=120)[0].split() for reaper in reapers]
    assert [reaper.returncode for reaper in reapers] == [0, 0]
    assert sorted(taken[0] + taken[1]) == sorted(run_ids)
    for run_id in run_ids:
        assert house.states(run_id) == ["queued", "running", "interrupted", "queued"]
        run = house.run(run_id)
        assert (run["state"], run["attempt"], [one["outcome"] for one in run["attempts"]]) == ("queued", 1, ["lost"])


@pytest.fixture
def clock(tmp_path: Path) -> dict[str, str]:
    """The environment of processes whose wall clock can be made to jump."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed, so no clock can be shifted")
    library = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_JUMPS_WHEN": str(tmp_path / "jumped")}


@pytest.mark.parametrize("house", SERVERS_IN_SOAK, indirect=True)
@pytest.mark.parametrize("jump", [3600, pytest.param(-3600, marks=pytest.mark.soak)])
def test_a_clock_that_jumps_by_an_hour_takes_no_run_from_a_worker_that_lives(
    house: House, clock: dict[str, str], tmp_path: Path, jump: int
) -> None:
    """With SQLite the clock of the machine, and so of both workers, jumps; with PostgreSQL the clock of one worker."""
    given = {**clock, "CLOCK_JUMP": str(jump)}
    house.start_web()
    house.start_worker("steps=300", "pause=0.04", environment=given)
    house.start_worker("steps=300", "pause=0.04", environment=given if house.database.is_sqlite else {})
    run_ids = [house.launch() for _ in range(2)]
    for run_id in run_ids:
        house.wait_for_step(run_id, 3)
    time.sleep(5)  # past each worker's own first lease, in which it takes back nothing
    assert {house.run(run_id)["worker_id"] for run_id in run_ids} == {"worker-0", "worker-1"}
    Path(clock["CLOCK_JUMPS_WHEN"]).touch()
    if house.database.is_sqlite:  # the jump is real: what the workers write carries the new time
        with house.database.reading() as session:
            here = now(session)
        wait_until(lambda: abs(beat_of(house) - here.timestamp()) > 3000, what="a heartbeat after the jump")
    for run_id in run_ids:
        house.wait_for_end(run_id)
        house.assert_whole(run_id, steps=300)


def beat_of(house: House) -> float:
    with house.database.reading() as session:
        return max(abs(worker.beat_at.timestamp()) for worker in workers.list_workers(session))
