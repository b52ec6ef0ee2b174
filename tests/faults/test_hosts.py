"""Several hosts for real: runs execute on both, one host loses its network in the middle of a run, the other goes on from there.

python -m pytest -m soak tests/faults/test_hosts.py
"""

from pathlib import Path
from typing import Any

import pytest

from tests.box.servers import find_postgresql, find_redis
from tests.box.tiny import write_models, write_pairs
from tests.faults.hosts import WORKERS, Hosts, why_not, with_hosts
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.box,
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_postgresql() is None or find_redis() is None, reason="PostgreSQL and Redis are not installed"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]
CLOCKED = {"step_seconds", "tokens_per_second", "peak_memory_bytes", "cost/seconds"}  # what no two runs have alike
STEPS = 800  # for longer than the server keeps the locks of who is cut off: it must not be done before another takes over


def launch(hosts: Hosts, dataset: str, policy: str, name: str) -> str:
    recipe = {
        "name": name, "dataset": dataset, "policy": {"model": policy}, "weights": {"preset": "within_prompt", "lambda": 1.0},
        "tokens": {"max_prompt": 96, "max_response": 64},
        "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 8},
        "evaluation": {"share": 0.1, "every": 40, "num_prompts": 3, "num_samples_shown": 2, "max_new_tokens": 8},
    }  # fmt: skip
    return str(hosts.post("/runs", json=recipe)["id"])


def succeeded(hosts: Hosts, run_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = hosts.get(f"/runs/{run_id}")
        assert run["state"] not in ("failed", "cancelled"), (run, hosts.http.get(f"/api/v1/runs/{run_id}/log").text)
        return run if run["state"] == "succeeded" else None

    found: dict[str, Any] = wait_until(ended, what=f"the success of {run_id}")
    return found


def events(hosts: Hosts, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := hosts.get(f"/runs/{run_id}/events?after={found[-1]['seq'] if found else 0}")["items"]:
        found += page
    return found


def workers_of(hosts: Hosts, run_id: str) -> list[str]:
    started = [event["payload"] for event in events(hosts, run_id) if event["kind"] == "state"]
    return [payload["worker"] for payload in started if payload["state"] == "running"]


def result(hosts: Hosts, run_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    series = hosts.get(f"/runs/{run_id}/metrics?points=5000")
    digests = {item["name"]: item["sha256"] for item in hosts.get(f"/runs/{run_id}/artifacts")}
    return (
        {key: found["points"] for key, found in series.items() if key not in CLOCKED},
        {name: digest for name, digest in digests.items() if name not in ("metrics.jsonl", "recipe.json")},  # clock and name
    )


def lose_a_host(hosts: Hosts, run_id: str) -> None:
    """Cut the host that has the run, until another attempt has begun; then let it come back."""
    wait_until(lambda: hosts.get(f"/runs/{run_id}")["step"] >= 24, what="step 24")
    (lost,) = workers_of(hosts, run_id)
    hosts.cut(lost)
    wait_until(lambda: len(workers_of(hosts, run_id)) == 2, what="the second attempt")
    hosts.join(lost)
    assert workers_of(hosts, run_id) == [lost, next(host for host in WORKERS if host != lost)]
    wait_until(lambda: not hosts.runners(run_id, 1), what="the end of the old runner")


@pytest.mark.parametrize("has_store", [True, False], ids=["s3", "folder"])
def test_a_host_that_loses_its_network_loses_its_run_to_the_other_which_ends_it_bit_equal(
    tmp_path: Path, has_store: bool
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    policy_folder, _ = write_models(models)
    pairs = write_pairs(tmp_path / "pairs.jsonl")

    def travel(hosts: Hosts) -> None:
        with pairs.open("rb") as file:
            dataset = hosts.post("/datasets", data={"name": "parcels"}, files={"file": (pairs.name, file)})["id"]
        wait_until(lambda: hosts.get(f"/datasets/{dataset}")["state"] == "ready", what="reading the data set")
        policy = hosts.post("/models", json={"source": "folder", "path": str(policy_folder), "kind": "policy"})["id"]
        whole = [launch(hosts, dataset, policy, f"whole {number}") for number in range(2)]
        for run_id in whole:
            succeeded(hosts, run_id)
        assert sorted(workers_of(hosts, whole[0]) + workers_of(hosts, whole[1])) == sorted(WORKERS)

        moved = launch(hosts, dataset, policy, "moved")
        lose_a_host(hosts, moved)
        assert succeeded(hosts, moved)["attempt"] == 2
        told = events(hosts, moved)
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        resumed = [event["payload"]["step"] for event in told if event["kind"] == "resume"]
        assert len(resumed) == 1
        assert resumed[0] >= 8
        assert sum(event["kind"] == "state" and event["payload"]["state"] == "succeeded" for event in told) == 1
        assert result(hosts, whole[0]) == result(hosts, whole[1]) == result(hosts, moved)
        weights = hosts.http.get(f"/api/v1/runs/{moved}/artifacts/model/model.safetensors")
        assert weights.status_code == 200
        assert weights.content == hosts.http.get(f"/api/v1/runs/{whole[0]}/artifacts/model/model.safetensors").content

    with_hosts(travel, models, has_store=has_store, logs=tmp_path)
