"""A5 for the one-command studio: `varstudio up` brings a web or a worker back that was killed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.box.tiny import write_models, write_pairs
from tests.faults.house import StreamReader
from tests.flow.studio import Studio, running_studio
from tests.waiting import wait_until

BACK_SECONDS = 5.0


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("up")
    (folder / "models").mkdir()
    write_models(folder / "models")
    quick = {"STUDIO_HEARTBEAT_SECONDS": "0.5", "STUDIO_LEASE_SECONDS": "4"}
    with running_studio(folder / "var", model_roots=[folder / "models"], **quick) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(studio: Studio) -> dict[str, Any]:
    folder = studio.data_dir.parent
    return {
        "dataset": studio.dataset(write_pairs(folder / "pairs.jsonl")),
        "policy": {"model": studio.model(folder / "models" / "tiny-policy", "policy"), "adaptation": "full"},
        "weights": {"lambda": 0.5},
        "tokens": {"max_prompt": 64, "max_response": 64},
        "training": {"batch_size": 4, "epochs": 4, "seed": 7},
        "evaluation": {"num_prompts": 0},
    }


def child_of(studio: Studio, module: str) -> int:
    """The process id of the web (uvicorn) or the worker below `varstudio up`."""
    assert studio.process is not None
    pid = studio.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split():
        if module in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").replace("\0", " "):
            return int(child)
    raise AssertionError(f"{module} does not run")


def seconds_until_page(studio: Studio) -> float:
    began = time.monotonic()

    def answers() -> bool:
        try:
            return studio.http.get("/").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, what="the page's return")
    return time.monotonic() - began


def result_of(studio: Studio, run_id: str) -> dict[str, Any]:
    """Final weights by their digest, and every metric series that doesn't measure time."""
    artifacts = {one["name"]: one for one in studio.get(f"/api/v1/runs/{run_id}/artifacts")}
    weights = {name: digest(studio, run_id, name) for name in artifacts if name.endswith(".safetensors")}
    assert weights
    series = studio.get(f"/api/v1/runs/{run_id}/metrics?points=5000")
    timed = ("second", "memory", "time")
    return {"weights": weights, "series": {key: one["points"] for key, one in series.items() if not any(t in key for t in timed)}}


def digest(studio: Studio, run_id: str, name: str) -> str:
    import hashlib

    answer = studio.http.get(f"/api/v1/runs/{run_id}/artifacts/{name}")
    assert answer.status_code == 200
    return hashlib.sha256(answer.content).hexdigest()


def test_kill_9_of_the_web_disturbs_no_training_and_loses_no_event(studio: Studio, recipe: dict[str, Any]) -> None:
    """The same attempt ends bit-equal to an undisturbed run, the page is back soon, and a reader sees each seq once."""
    undisturbed = studio.launch(recipe)
    studio.wait_for_state(undisturbed, "succeeded")
    run_id = studio.launch({**recipe, "name": "while the web dies"})
    headers = {"authorization": studio.http.headers["authorization"]}
    reader = StreamReader(str(studio.http.base_url).rstrip("/"), headers, run_id)
    reader.start()
    wait_until(lambda: studio.get(f"/api/v1/runs/{run_id}")["step"] >= 2, what="step 2")
    web = child_of(studio, "uvicorn")
    os.kill(web, signal.SIGKILL)
    seconds = seconds_until_page(studio)
    print(f"the page is back {seconds:.1f} s after kill -9 of the web")
    run = studio.wait_for_state(run_id, "succeeded")
    reader.join(60)
    assert child_of(studio, "uvicorn") != web
    assert (run["attempt"], len(run["attempts"])) == (1, 1)
    assert result_of(studio, run_id) == result_of(studio, undisturbed)
    recorded = list(studio.events(run_id))
    assert reader.finished
    assert reader.seqs == [entry["seq"] for entry in recorded]
    assert [entry["payload"] for entry in reader.entries] == [entry["payload"] for entry in recorded]
    assert reader.num_connections >= 2
    assert "The web process ended by itself (status -9). It is started again" in log_of(studio)
    assert seconds <= BACK_SECONDS * slowness()


@pytest.mark.soak
def test_kill_9_of_the_worker_is_made_good_by_a_new_one(studio: Studio, recipe: dict[str, Any]) -> None:
    run_id = studio.launch({**recipe, "name": "while the worker dies"})
    wait_until(lambda: studio.get(f"/api/v1/runs/{run_id}")["step"] >= 2, what="step 2")
    os.kill(child_of(studio, "worker.main"), signal.SIGKILL)
    run = studio.wait_for_state(run_id, "succeeded")
    assert run["attempt"] == 2
    seqs = [entry["seq"] for entry in studio.events(run_id)]
    assert seqs == list(range(1, len(seqs) + 1))


def log_of(studio: Studio) -> str:
    return " ".join((studio.data_dir / "studio.log").read_text().split())


def slowness() -> float:
    """How many times longer than on a free machine a start may take now: processes that wait for each core, at least one."""
    waiting = json.loads(f"[{Path('/proc/loadavg').read_text(encoding='utf-8').split()[0]}]")[0]
    return max(1.0, 2 * waiting / (os.cpu_count() or 1))
