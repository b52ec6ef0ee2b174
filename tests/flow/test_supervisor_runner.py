"""Supervisor and real runner together: killed in the middle, a run ends as if nothing had happened."""

import hashlib
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from app.services import runs as services
from app.settings import Settings
from app.store import runs
from app.store.database import Database
from app.store.files import Files
from app.store.tables import Dataset, Model
from tests.conftest import Library
from tests.flow.watching import fetch, read_journal, wait_for_end, wait_until
from tests.worker.workshop import Workshop
from worker.supervisor import Supervisor

TIMED = ("tokens_per_second", "step_seconds", "peak_memory_bytes")
TRAINING = {"batch_size": 4, "steps": 24, "learning_rate": 1e-2, "checkpoint_every": 5, "seed": 3}


@pytest.fixture
def tiny(database: Database, files: Files, library: Library, tmp_path: Path) -> Library:
    """The library with a real data set and a real tiny policy behind it."""
    workshop = Workshop(tmp_path)
    folder = files.dataset_dir(library.dataset.id)
    folder.mkdir(parents=True)
    shutil.copy(workshop.dataset(workshop.examples(40)), folder / "examples.parquet")
    with database.writing() as session:
        policy, dataset = session.get(Model, library.policy.id), session.get(Dataset, library.dataset.id)
        assert policy is not None
        assert dataset is not None
        policy.source, policy.path, policy.revision = "folder", str(workshop.policy()), None
        assert dataset.audit is not None
        dataset.audit = {**dataset.audit, "num_rows": 40, "num_kept_rows": 40, "num_examples": 40, "num_responses": 80}
    return library


def launch(database: Database, library: Library) -> str:
    evaluation = {"share": 0.1, "num_prompts": 2, "num_samples_shown": 1, "max_new_tokens": 8, "every": 12}
    recipe = library.recipe(training=TRAINING, evaluation=evaluation)
    with database.writing() as session:
        return services.launch(session, library.user.id, recipe).id


def read_result(database: Database, files: Files, run_id: str) -> tuple[str, dict[str, list[tuple[int, float | None]]]]:
    """Digest of the trained weights, and every series that is not a measurement of time."""
    weights = files.artifact_path(run_id, "model/model.safetensors").read_bytes()
    with database.reading() as session:
        keys = [key for key in runs.metric_keys(session, run_id) if key not in TIMED]
        return hashlib.sha256(weights).hexdigest(), runs.list_metrics(session, run_id, keys, points=10_000)


def test_a_run_whose_runner_was_killed_ends_bit_equal_to_an_undisturbed_one(
    settings: Settings, database: Database, files: Files, tiny: Library
) -> None:
    changed = settings.model_copy(update={"runner_threads": 1, "lease_seconds": 30.0})
    supervisor = Supervisor(changed, database, files, gpus=[])
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        undisturbed, killed = launch(database, tiny), launch(database, tiny)
        assert wait_for_end(database, undisturbed, 120).state == "succeeded", fetch(database, undisturbed).error
        wait_until(lambda: fetch(database, killed).step >= 7, 120)
        process = json.loads((files.attempt_dir(killed, 1) / "process.json").read_text())
        os.killpg(process["pid"], signal.SIGKILL)
        run = wait_for_end(database, killed, 120)
    finally:
        supervisor.stop()
        thread.join(60)
    assert (run.state, run.attempt) == ("succeeded", 2), run.error
    assert [entry.payload["step"] for entry in read_journal(database, killed, "resume")][-1] >= 5
    assert read_result(database, files, killed) == read_result(database, files, undisturbed)
    states = [entry.payload["state"] for entry in read_journal(database, killed, "state")]
    assert states.count("succeeded") == 1
