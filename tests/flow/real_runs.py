"""Real files behind the rows of a Library, so that the real runner can train on them, and what a finished run left."""

import hashlib
import shutil

from app.store import metrics
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Dataset, Model
from tests.conftest import Library
from tests.worker.workshop import Workshop

TIMED = ("tokens_per_second", "step_seconds", "peak_memory_bytes", "cost/seconds")  # what no two runs have alike

Series = dict[str, list[tuple[int, float | None]]]


def stock(database: Database, files: Files, library: Library, workshop: Workshop) -> None:
    """Put a data set of 40 examples and a tiny policy behind the library's rows."""
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


def read_result(database: Database, files: Files, run_id: str) -> tuple[str, Series]:
    """Digest of the trained weights, and every series that is not a measurement of time."""
    weights = files.artifact_path(run_id, "model/model.safetensors").read_bytes()
    with database.reading() as session:
        keys = [key for key in metrics.metric_keys(session, run_id) if key not in TIMED]
        return hashlib.sha256(weights).hexdigest(), metrics.list_metrics(session, run_id, keys, points=10_000)
