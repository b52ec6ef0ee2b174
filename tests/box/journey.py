"""The way through a running box, from the sign-in to the downloaded model, by REST alone."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from app.domain.metrics import CATALOGUE
from tests.box.box import Box
from tests.box.tiny import write_models, write_pairs
from tests.waiting import wait_until

Say = Callable[[str], None]


def make_token(box: Box) -> str:
    """A bearer token, as `docker compose exec web varstudio tokens create` makes it."""
    tree = box.folder / "images" / "web"
    done = subprocess.run(
        [box.program("varstudio"), "tokens", "create", "--name", "box"],
        cwd=tree, env=box.environment(box.services["web"]["environment"], tree), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def sign_in(box: Box) -> None:
    """A browser comes in by the link in the log of the web; the link works once."""
    link = box.login_link()
    with httpx.Client(base_url=box.url, timeout=30) as browser:
        assert browser.post(f"/login/{link}").status_code == 303
        assert browser.get("/").status_code == 200
    assert httpx.post(f"{box.url}/login/{link}").status_code == 401


def recipes(dataset: str, policy: str, reward: str) -> list[dict[str, Any]]:
    """A full fine-tuning with a reward model, and a LoRA on the preference labels."""
    shared = {
        "dataset": dataset,
        "tokens": {"max_prompt": 96, "max_response": 64},
        "training": {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 3},
        "evaluation": {"share": 0.1, "every": 3, "num_prompts": 4, "num_samples_shown": 2, "max_new_tokens": 12},
    }
    full = {"policy": {"model": policy}, "reward": {"source": "model", "model": reward}, "weights": {"lambda": 0.5}}
    lora = {
        "policy": {"model": policy, "adaptation": "lora", "lora": {"rank": 4}},
        "weights": {"preset": "within_prompt", "lambda": 1.0},
    }
    return [{**shared, **full, "name": "full"}, {**shared, **lora, "name": "lora"}]


def read_stream(client: httpx.Client, run_id: str) -> Iterator[dict[str, Any]]:
    """Every entry that the live stream sends, until it ends by itself."""
    event = ""
    with client.stream("GET", f"/api/v1/runs/{run_id}/stream", timeout=httpx.Timeout(30, read=240)) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event != "end":
                yield json.loads(line.removeprefix("data:"))


def checked(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return answer.json()


def travel(box: Box, say: Say) -> list[dict[str, Any]]:
    """Sign in, upload, register, launch two runs, follow both, download what they made; the runs as they ended."""
    sign_in(box)
    with httpx.Client(base_url=box.url, headers={"Authorization": f"Bearer {make_token(box)}"}, timeout=60) as client:
        return travel_signed_in(client, box, say)


def travel_signed_in(client: httpx.Client, box: Box, say: Say) -> list[dict[str, Any]]:
    assert client.get("/readyz").status_code == 200
    policy, reward = write_models(box.models)
    pairs = write_pairs(box.folder / "pairs.jsonl")
    with pairs.open("rb") as file:
        dataset = checked(client.post("/api/v1/datasets", data={"name": "parcels"}, files={"file": (pairs.name, file)}), 201)
    dataset = wait_until(lambda: ready(client, dataset["id"]), what="reading the data set")
    say(f"data set {dataset['id']}: {dataset['num_examples']} examples")
    models = [
        checked(client.post("/api/v1/models", json={"source": "folder", "path": str(path), "kind": kind}), 201)["id"]
        for path, kind in ((policy, "policy"), (reward, "reward"))
    ]
    launched = [checked(client.post("/api/v1/runs", json=recipe), 202) for recipe in recipes(dataset["id"], *models)]
    ended = [follow(client, run["id"], say) for run in launched]
    for run in ended:
        check_records(client, run)
        check_artifacts(client, run["id"])
    return ended


def ready(client: httpx.Client, dataset_id: str) -> dict[str, Any] | None:
    dataset: dict[str, Any] = checked(client.get(f"/api/v1/datasets/{dataset_id}"))
    assert dataset["state"] in ("processing", "ready"), dataset
    return dataset if dataset["state"] == "ready" else None


def follow(client: httpx.Client, run_id: str, say: Say) -> dict[str, Any]:
    """Read the stream to its end; it is the journal, without a gap."""
    entries = list(read_stream(client, run_id))
    run: dict[str, Any] = checked(client.get(f"/api/v1/runs/{run_id}"))
    log = client.get(f"/api/v1/runs/{run_id}/log").text
    assert run["state"] == "succeeded", json.dumps(run["error"], indent=1) + log
    assert [entry["seq"] for entry in entries] == list(range(1, run["last_seq"] + 1))
    say(f"run {run['name']} {run_id}: {run['state']} after {run['step']} steps on {run['attempts'][-1]['worker_id']}")
    return run


def check_records(client: httpx.Client, run: dict[str, Any]) -> None:
    """Metrics of the catalogue for every step, the weights of a batch, samples at the end."""
    series = checked(client.get(f"/api/v1/runs/{run['id']}/metrics"))
    assert set(series) <= set(CATALOGUE)
    assert [step for step, _ in series["loss"]["points"]] == list(range(1, run["num_steps"] + 1))
    weights = checked(client.get(f"/api/v1/runs/{run['id']}/weights"))
    assert len(weights["items"]) == 8
    assert all(row["weight"] >= 0 for row in weights["items"])
    samples = checked(client.get(f"/api/v1/runs/{run['id']}/samples"))
    assert samples["step"] == run["num_steps"]
    assert len(samples["items"]) == 2


def check_artifacts(client: httpx.Client, run_id: str) -> None:
    """Every listed file comes whole, and the model's among them."""
    listed = checked(client.get(f"/api/v1/runs/{run_id}/artifacts"))
    names = {artifact["name"] for artifact in listed}
    assert {
        "model/model.safetensors",
        "model/config.json",
        "weights.parquet",
        "samples.jsonl",
        "metrics.jsonl",
        "recipe.json",
    } <= names
    for artifact in listed:
        content = client.get(artifact["url"]).content
        assert len(content) == artifact["size_bytes"]
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"], artifact["name"]


def both_workers_took_part(runs: list[dict[str, Any]]) -> bool:
    """True when the runs overlapped; then a worker with one slot can't have had both."""
    first, second = sorted((run["attempts"][-1] for run in runs), key=lambda attempt: attempt["started_at"])
    overlapped = second["started_at"] < first["ended_at"]
    assert not overlapped or first["worker_id"] != second["worker_id"] or has_gpus()
    return overlapped


def has_gpus() -> bool:
    folder = Path("/proc/driver/nvidia/gpus")
    return folder.is_dir() and any(folder.iterdir())
