"""Supervisor and real runner together: killed in the middle, a run ends as if nothing had happened."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from app.services import runs as services
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from tests.conftest import Library
from tests.flow.real_runs import read_result, stock
from tests.flow.watching import fetch, read_journal, wait_for_end
from tests.waiting import wait_until
from tests.warm import forking
from tests.worker.workshop import Workshop
from worker.supervisor import Supervisor

TRAINING = {"batch_size": 4, "steps": 24, "learning_rate": 1e-2, "checkpoint_every": 5, "seed": 3}


@pytest.fixture
def tiny(database: Database, files: Files, library: Library, tmp_path: Path) -> Library:
    """The library with a real data set and a real tiny policy behind it."""
    stock(database, files, library, Workshop(tmp_path))
    return library


def launch(database: Database, library: Library) -> str:
    evaluation = {"share": 0.1, "num_prompts": 2, "num_samples_shown": 1, "max_new_tokens": 8, "every": 12}
    recipe = library.recipe(training=TRAINING, evaluation=evaluation)
    with database.writing() as session:
        return services.launch(session, library.user.id, recipe).id


def test_a_run_whose_runner_was_killed_ends_bit_equal_to_an_undisturbed_one(
    settings: Settings, database: Database, files: Files, tiny: Library
) -> None:
    changed = settings.model_copy(update={"runner_threads": 1, "lease_seconds": 30.0})
    supervisor = Supervisor(changed, database, files, gpus=[])
    thread = threading.Thread(target=supervisor.run)
    with forking():
        thread.start()
        try:
            undisturbed, killed = launch(database, tiny), launch(database, tiny)
            assert wait_for_end(database, undisturbed).state == "succeeded", fetch(database, undisturbed).error
            wait_until(lambda: fetch(database, killed).step >= 7)
            process = json.loads((files.attempt_dir(killed, 1) / "process.json").read_text())
            os.killpg(process["pid"], signal.SIGKILL)
            run = wait_for_end(database, killed)
        finally:
            supervisor.stop()
            thread.join(60)
    assert (run.state, run.attempt) == ("succeeded", 2), run.error
    assert [entry.payload["step"] for entry in read_journal(database, killed, "resume")][-1] >= 5
    assert read_result(database, files, killed) == read_result(database, files, undisturbed)
    states = [entry.payload["state"] for entry in read_journal(database, killed, "state")]
    assert states.count("succeeded") == 1


def test_a_run_in_a_runner_that_waited_equals_one_in_a_runner_that_started_cold(
    settings: Settings, database: Database, files: Files, tiny: Library
) -> None:
    changed = settings.model_copy(update={"runner_threads": 1, "lease_seconds": 30.0})
    previews_hinted = threading.Event()
    supervisor = Supervisor(changed, database, files, gpus=[], previews_hinted=previews_hinted)
    thread = threading.Thread(target=supervisor.run)
    with forking():
        thread.start()
        try:
            previews_hinted.set()  # somebody opens the launch form
            wait_until(lambda: supervisor.standby.pid is not None)
            waiting = supervisor.standby.pid
            warm, cold = launch(database, tiny), launch(database, tiny)
            runs = [wait_for_end(database, run_id) for run_id in (warm, cold)]
        finally:
            supervisor.stop()
            thread.join(60)
    assert [run.state for run in runs] == ["succeeded"] * 2, [run.error for run in runs]
    pids = [json.loads((files.attempt_dir(run_id, 1) / "process.json").read_text())["pid"] for run_id in (warm, cold)]
    assert pids[0] == waiting
    assert pids[1] != waiting
    assert read_result(database, files, warm) == read_result(database, files, cold)
    assert supervisor.standby.pid is None
