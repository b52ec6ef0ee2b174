"""kill -9 in the middle of a run: it goes on by itself and ends as if nothing had been."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.flow.studio import Studio
from tests.waiting import wait_until

pytestmark = pytest.mark.shared

CLOCKED = {"step_seconds", "tokens_per_second", "peak_memory_bytes", "cost/seconds"}  # what no two runs have alike


def find_runner(studio: Studio, run_id: str) -> int:
    """The process of the run's first attempt."""
    record = studio.data_dir / "runs" / run_id / "attempts" / "1" / "process.json"
    return int(json.loads(record.read_text(encoding="utf-8"))["pid"])


def read_result(studio: Studio, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    series = studio.get(f"/api/v1/runs/{run_id}/metrics?points=5000")
    artifacts = studio.get(f"/api/v1/runs/{run_id}/artifacts")
    digests = {item["name"]: item["sha256"] for item in artifacts if item["name"] != "metrics.jsonl"}  # it holds the clock
    return {key: found["points"] for key, found in series.items() if key not in CLOCKED}, digests


def test_a_killed_run_resumes_and_ends_bit_equal(studio: Studio, shared: Path, shared_models: Path) -> None:
    recipe = {
        "dataset": studio.dataset(shared / "data" / "hh" / "helpful-base.jsonl"),
        "max_examples": 60,
        "policy": {"model": studio.model(shared_models / "stories260K-hf", "policy")},
        "weights": {"preset": "length_normalised", "lambda": 0.5},
        "tokens": {"max_prompt": 96, "max_response": 48},
        "training": {"batch_size": 4, "steps": 24, "learning_rate": 1e-4, "checkpoint_every": 4},
        "evaluation": {"share": 0.1, "every": 12, "num_prompts": 3, "num_samples_shown": 3, "max_new_tokens": 8},
    }
    whole = studio.launch(recipe)
    studio.wait_for_state(whole, "succeeded")

    killed = studio.launch(recipe)
    wait_until(lambda: studio.get(f"/api/v1/runs/{killed}")["step"] >= 9, what="step 9")
    os.kill(find_runner(studio, killed), signal.SIGKILL)
    run = studio.wait_for_state(killed, "succeeded")

    assert run["attempt"] == 2
    assert read_result(studio, killed) == read_result(studio, whole)
    ends = [e for e in studio.events(killed) if e["kind"] == "state" and e["payload"]["state"] == "succeeded"]
    resumed = [e["payload"]["step"] for e in studio.events(killed) if e["kind"] == "resume"]
    assert len(ends) == 1
    assert resumed
    assert resumed[-1] >= 4
