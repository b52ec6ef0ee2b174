"""Is what a policy farms worth training on? `make bench ARGS=tests/bench/test_farm.py`, on the demonstration's help desk.

The policy answers the training prompts eight times each, the reward model judges, best against worst becomes a data set, VAR
trains on it, and the result meets the policy on prompts that nothing of it has read: over REST, with real processes.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from app.commands.client import Client
from app.demonstration.flow import get_model, judge, write_recipe
from app.domain.statistics.paired import PairedComparison, compare_paired
from app.services import accounts
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import DEMONSTRATION
from tests.browser.studio import CHECKOUT, start_web
from tests.browser.test_first_comparison import environ, start_worker
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until

NUM_HELD_OUT, NUM_DRAWS, NUM_MEETINGS = 160, 8, 4  # prompts; answers to a training prompt; answers to a held-out one
LONG_SECONDS = 3600.0
SAMPLING = {"max_new_tokens": 80, "temperature": 1.0}

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The demonstration's data and models below a data folder; they are made once and kept beside pytest's other notes."""
    kept = Path(request.config.cache.mkdir("demonstration")) / "seed-0"  # type: ignore[union-attr]
    subprocess.run([sys.executable, "-m", "worker.demonstration", str(kept)], cwd=CHECKOUT, env=environ(), check=True)
    return Path(shutil.copytree(kept, tmp_path / "var" / DEMONSTRATION / "seed-0"))


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    """A studio with a worker over that folder."""
    root, port = folder.parents[1], free_port()
    settings = Settings(_env_file=None, data_dir=root, port=port)
    database = Database(settings)
    database.migrate()
    with database.writing() as session:
        token = accounts.create_token(session, accounts.ensure_admin(session), "bench")
    database.close()
    processes = [start_worker(settings, subprocess.Popen), start_web(root, port)]
    yield Client(settings.model_copy(update={"token": token}))
    for process in processes:
        process.terminate()
        process.wait(END_SECONDS)


def wait_for(client: Client, path: str, state: str) -> dict[str, Any]:
    """What is there, once it is in this state."""

    def look() -> dict[str, Any] | None:
        time.sleep(1)
        found: dict[str, Any] = client.get(path)
        assert found["state"] not in ("failed", "cancelled"), found
        return found if found["state"] == state else None

    found = wait_until(look, f"{path} {state}", seconds=LONG_SECONDS)
    assert found is not None
    return found


def ask(client: Client, prompts: list[str], model: dict[str, str], reward: str, num_draws: int) -> dict[str, Any]:
    """A model's answers, judged by the reward model and by length."""
    text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
    known = {one["name"]: one["id"] for one in client.get("/prompt-sets")["items"]}
    name = f"{len(prompts)} prompts"
    prompt_set = known.get(name) or client.post("/prompt-sets", {"name": name, "text": text})["id"]
    body = {
        "prompt_set": prompt_set, "model": model, "n": num_draws, "sampling": SAMPLING,
        "judges": [{"kind": "reward", "model": reward}, {"kind": "length"}],
    }  # fmt: skip
    return client.post("/answers", body)  # type: ignore[no-any-return]


def true_scores(client: Client, answers_id: str, prompts: list[str]) -> list[float]:
    """What the help desk's own judge, whom nothing is trained on, says of each prompt's answers on average."""
    rows = [
        row
        for start in range(0, len(prompts), 200)
        for row in client.get(f"/answers/{answers_id}/answers", start=start, limit=200)
    ]
    scores = judge([prompts[row["index"]] for row in rows], [row["text"] for row in rows])
    return [fmean(s for row, s in zip(rows, scores, strict=True) if row["index"] == k) for k in range(len(prompts))]


def tell(figures: dict[str, Any], verdict: str, by_reward: dict[str, Any], by_truth: PairedComparison) -> None:
    better, worse = figures["mean_better_length"], figures["mean_worse_length"]
    print(
        f"\n{figures['num_rows']} pairs of {figures['num_prompts']} prompts, gap {figures['mean_gap']:.2f}; {figures['left_out']}"
    )
    print(f"better answers {better:.0f} characters, worse {worse:.0f}\n{verdict}")
    print("by the reward model:", *(f"{name} {by_reward[name]}" for name in ("gain", "win_rate", "length_controlled")))
    print(f"by the true score: {by_truth.gain}, win rate {by_truth.win_rate}")


def test_what_a_policy_farms_makes_it_better(client: Client, folder: Path) -> None:
    began_at, root = time.monotonic(), folder.parents[1]
    prompts = [json.loads(line)["prompt"] for line in (folder / "preferences.jsonl").read_text().splitlines()]
    learned, held_out = prompts[:-NUM_HELD_OUT], prompts[-NUM_HELD_OUT:]
    policy, reward = (get_model(client, root, folder / kind, kind)["id"] for kind in ("policy", "reward"))
    asked = ask(client, learned, {"source": "model", "model": policy}, reward, NUM_DRAWS)
    answers = wait_for(client, f"/answers/{asked['id']}", "ready")
    answered_at = time.monotonic()
    key = next(one["key"] for one in answers["judgements"] if one["kind"] == "reward")
    figures = client.post(f"/answers/{answers['id']}/farm", {"judge": key})
    dataset = client.post(f"/answers/{answers['id']}/dataset", {"judge": key})
    wait_for(client, f"/datasets/{dataset['id']}", "ready")
    run = client.post("/runs", {**write_recipe(dataset["id"], policy, reward, seed=0), "name": "Farmed"})
    wait_for(client, f"/runs/{run['id']}", "succeeded")
    trained_at = time.monotonic()
    models = ({"source": "run", "run": run["id"]}, {"source": "model", "model": policy})
    met = [ask(client, held_out, model, reward, NUM_MEETINGS)["id"] for model in models]
    comparison = wait_for(client, f"/comparisons/{client.post('/comparisons', {'answers': met})['id']}", "ready")
    by_reward = next(one for one in comparison["figures"]["judges"] if one["kind"] == "reward")["pairs"][0]
    by_truth = compare_paired(*(true_scores(client, one, held_out) for one in met))
    answering, training = answered_at - began_at, trained_at - answered_at
    tell(figures, comparison["verdict"], by_reward, by_truth)
    print(f"answering {answering:.0f} s, training {training:.0f} s, the rest {time.monotonic() - trained_at:.0f} s")
    assert by_reward["gain"][1] > 0
