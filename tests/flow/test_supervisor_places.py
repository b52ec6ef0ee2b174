"""Runs of several processes on a worker: each gets as many GPUs or slots, waits for them, and nothing starves."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from app.services import runs as services
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from tests.conftest import Library
from tests.flow.watching import fetch, wait_for_end
from tests.waiting import wait_until
from worker.supervision.devices import Device
from worker.supervisor import Supervisor

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
TELL_GPUS = (  # a runner that keeps the GPUs it was given, waits for `go`, and succeeds
    sys.executable,
    "-c",
    "import json, os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1]); "
    "(folder / 'gpus').write_text(os.environ['CUDA_VISIBLE_DEVICES']); "
    "[time.sleep(0.02) for _ in iter(lambda: (folder.parents[2] / 'go').exists(), True)]; "
    "line = {'n': 1, 'at': '', 'kind': 'outcome', 'payload': {'outcome': 'succeeded'}}; "
    "(folder / 'events.jsonl').write_text(json.dumps(line) + chr(10))",
)
Start = Callable[..., Supervisor]


@pytest.fixture
def start(settings: Settings, database: Database, files: Files) -> Iterator[Start]:
    started: list[tuple[Supervisor, threading.Thread]] = []

    def start_one(command: Sequence[str], gpus: int, slots: int) -> Supervisor:
        changed = settings.model_copy(update={"worker_name": "worker", "worker_slots": slots, "grace_seconds": 5.0})
        devices = [Device(10 + k, "a GPU", 2**30) for k in range(gpus)]
        supervisor = Supervisor(changed, database, files, runner_command=command, gpus=devices)
        thread = threading.Thread(target=supervisor.run)
        started.append((supervisor, thread))
        thread.start()
        return supervisor

    yield start_one
    for supervisor, thread in started:
        supervisor.stop()
        thread.join(15)


def launch(database: Database, library: Library, num_processes: int) -> str:
    with database.writing() as session:
        recipe = library.recipe(training={"num_processes": num_processes, "batch_size": 64})
        return services.launch(session, library.user.id, recipe).id


def test_each_run_gets_gpus_of_its_own_and_a_wide_one_waits_for_enough(
    start: Start, database: Database, library: Library, files: Files
) -> None:
    small, wide, late = (launch(database, library, num) for num in (1, 3, 1))
    start(TELL_GPUS, gpus=3, slots=0)
    wait_until((files.attempt_dir(small, 1) / "gpus").exists)
    assert fetch(database, wide).state == "queued"
    assert fetch(database, late).state == "queued"  # there are two free GPUs, but the wide run is before it
    (files.run_dir(small).parent / "go").touch()
    for run_id, given in ((small, "10"), (wide, "10,11,12"), (late, "10")):
        assert wait_for_end(database, run_id).state == "succeeded"
        assert (files.attempt_dir(run_id, 1) / "gpus").read_text() == given
    spec = json.loads((files.attempt_dir(wide, 1) / "spec.json").read_text())
    assert (spec["device"], spec["num_processes"]) == ("cuda", 3)


def test_without_gpus_a_wide_run_takes_as_many_slots(start: Start, database: Database, library: Library, files: Files) -> None:
    wide, second = launch(database, library, 2), launch(database, library, 1)
    supervisor = start((*STAND_IN, "wait@2"), gpus=0, slots=2)
    wait_until(lambda: fetch(database, wide).state == "running")
    assert fetch(database, second).state == "queued"
    for run_id in (wide, second):
        files.run_dir(run_id).mkdir(parents=True, exist_ok=True)
        (files.run_dir(run_id) / "go").touch()
    assert wait_for_end(database, wide).state == "succeeded"
    assert wait_for_end(database, second).state == "succeeded"
    assert supervisor._slots.num_places == 2


@pytest.mark.parametrize("also_fitting", [False, True])
def test_a_run_that_no_worker_can_take_fails_with_a_sentence(
    also_fitting: bool, start: Start, database: Database, library: Library
) -> None:
    too_wide = launch(database, library, 5)  # before any worker is known
    fitting = launch(database, library, 2) if also_fitting else None
    start((*STAND_IN, "steps=1"), gpus=0, slots=2)
    run = wait_for_end(database, too_wide)
    assert (run.state, run.attempt) == ("failed", 1)
    assert "wants 5 devices to train together, but no worker has more than 2" in run.error["reason"]
    assert run.error["remedy"].startswith("Change training.num_processes")
    if fitting is not None:
        assert wait_for_end(database, fitting).state == "succeeded"
