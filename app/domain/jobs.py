"""What one attempt is told: `spec.json`, the whole contract between supervisor and runner.

Layout of a run's folder (paths in the spec are absolute):
    runs/<run_id>/checkpoints/step-000100/    kept across attempts
    runs/<run_id>/artifacts/                  downloads: weights.parquet, samples.jsonl, model/…
    runs/<run_id>/attempts/<n>/spec.json  events.jsonl  log.txt  cancel
The supervisor asks for a stop by creating `cancel` (user's cancel) in the attempt's folder, or by SIGTERM (go away, save first).
"""

from datetime import date

from pydantic import BaseModel, ConfigDict

from app.domain.recipe import Recipe
from app.domain.run import RunKind

# Quick ways to train that not every machine allows, by the key under which a worker says why one is off.
FAST_PATHS = {"compile": "torch.compile", "flex": "FlexAttention", "nf4": "4-bit weights"}


class ModelSource(BaseModel):
    """Where a model's files are: a hub name with revision, or a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    source: str  # "hub" | "folder"
    path: str  # hub name or absolute folder
    revision: str | None = None
    name: str = ""  # what the world outside calls it, where that is not its path


class JobSpec(BaseModel):
    """What every attempt is told, whatever its run is for."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    run_id: str
    kind: RunKind = RunKind.TRAINING
    attempt: int
    run_dir: str
    hub_dir: str  # cache folder of downloaded models
    device: str = "cpu"  # "cpu" | "cuda"
    num_processes: int = 1  # ranks of this attempt; at most as many as the worker could give
    num_threads: int | None = None
    memory_bytes: int | None = None  # that each process may ask the system for
    launched_on: date | None = None  # what chat templates take for today, where the recipe does not say it
    supervisor_pid: int | None = None  # the runner stops when this process is gone; None: stand-alone


class RunSpec(JobSpec):
    """A training, or a scoring, which ends after the score stage."""

    recipe: Recipe
    dataset_path: str  # examples.parquet
    dataset_sha256: str
    policy: ModelSource
    reward: ModelSource | None = None
    further: tuple[ModelSource, ...] = ()  # reward models beside `reward`
    judge: ModelSource | None = None
    scorings_dir: str
