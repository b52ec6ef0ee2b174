"""Real third-party data through the front door: upload over REST, count, run, watch."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.flow.studio import Studio

pytestmark = pytest.mark.shared

HELPSTEER: dict[str, Any] = {
    "shape": "rated",
    "columns": {"prompt": "prompt", "response": "response", "rating": "helpfulness"},
    "options": {"group_by_prompt": True},
}
FILES: dict[str, tuple[int, dict[str, Any] | None]] = {
    "hh/harmless-base.jsonl.gz": (1975, None),
    "hh/helpful-base.jsonl": (2035, None),
    "hh_reward_scored/helpful_base.first500.json": (500, None),
    "hh_reward_scored/harmless_base.first500.json": (500, None),
    "ultrafeedback/train_clean.first700.jsonl": (700, None),
    "llamafactory/dpo_en_demo.json": (300, None),
    "llamafactory/kto_en_demo.json": (300, None),
    "pandalm/testset-v1.json": (999, None),
    "rasbt/instruction-data-with-preference.json": (1100, None),
    "stackexchange/stack_exchange_paired_tiny.json": (25, None),
    "oasst/en_100_tree.jsonl": (100, None),
    "helpsteer2/helpsteer_train.100.jsonl": (100, HELPSTEER),
    "medicalgpt/dpo_zh.first120.jsonl": (120, None),
    "llmbar/Natural.json": (96, None),
}
SMALL: dict[str, Any] = {
    "max_examples": 40,
    "tokens": {"max_prompt": 128, "max_response": 64},
    "training": {"batch_size": 4, "steps": 6, "learning_rate": 1e-4},
    "evaluation": {"share": 0.1, "every": 3, "num_prompts": 4, "num_samples_shown": 3, "max_new_tokens": 12},
}


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_taken_in_with_every_row_accounted_for(studio: Studio, shared: Path, name: str) -> None:
    num_rows, mapping = FILES[name]
    dataset = studio.get(f"/api/v1/datasets/{studio.dataset(shared / 'data' / name, mapping=mapping)}")
    audit = studio.get(f"/api/v1/datasets/{dataset['id']}/audit")
    assert audit["num_rows"] == num_rows
    assert num_rows == audit["num_kept_rows"] + sum(item["count"] for item in audit["dropped"])
    assert dataset["num_examples"] == audit["num_examples"] > 0
    page = studio.get(f"/api/v1/datasets/{dataset['id']}/examples")["items"]
    assert page[0]["prompt"]
    assert page[0]["responses"][0]["content"].strip()


def check_records(studio: Studio, run_id: str, num_steps: int) -> None:
    """What the live page is drawn from: a dense journal, whole series, weights, samples, files."""
    events = list(studio.events(run_id))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    steps = [event["payload"] for event in events if event["kind"] == "step"]
    assert [step["step"] for step in steps] == list(range(1, num_steps + 1))
    assert sum(steps[0]["histogram"]) == len(studio.get(f"/api/v1/runs/{run_id}/weights?step=1")["items"])
    series = studio.get(f"/api/v1/runs/{run_id}/metrics?keys=loss,weight/ess_share,eval/kl")
    assert {key: len(found["points"]) for key, found in series.items()} == {
        "loss": num_steps, "weight/ess_share": num_steps, "eval/kl": 3,
    }  # fmt: skip
    samples = [event["payload"] for event in events if event["kind"] == "sample"]
    assert {sample["step"] for sample in samples} == {3, 6}  # at step 0 the policy is the reference
    names = {item["name"] for item in studio.get(f"/api/v1/runs/{run_id}/artifacts")}
    assert {"model/model.safetensors", "weights.parquet", "samples.jsonl", "recipe.json"} <= names
    assert studio.http.get(f"/api/v1/runs/{run_id}/artifacts/model/model.safetensors").status_code == 200


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_a_run_on_human_preferences_succeeds_with_a_pretrained_policy(
    studio: Studio, shared: Path, shared_models: Path, adaptation: str
) -> None:
    policy = studio.model(shared_models / "stories260K-hf", "policy")
    run_id = studio.launch(
        {
            "dataset": studio.dataset(shared / "data" / "hh" / "harmless-base.jsonl.gz"),
            "policy": {"model": policy, "adaptation": adaptation},
            "weights": {"preset": "length_normalised", "lambda": 0.5},
            **SMALL,
        }
    )
    run = studio.wait_for_state(run_id, "succeeded")
    assert run["attempt"] == 1
    check_records(studio, run_id, 6)


def test_a_run_uses_the_rewards_that_stand_in_the_data(studio: Studio, shared: Path, shared_models: Path) -> None:
    policy = studio.model(shared_models / "stories260K-hf", "policy")
    run_id = studio.launch(
        {
            "dataset": studio.dataset(shared / "data" / "hh_reward_scored" / "helpful_base.first500.json"),
            "policy": {"model": policy},
            "reward": {"source": "rating"},
            "weights": {"preset": "length_normalised", "lambda": 0.5, "reward_norm": "zscore"},
            **SMALL,
        }
    )
    studio.wait_for_state(run_id, "succeeded")
    check_records(studio, run_id, 6)
    rows = studio.get(f"/api/v1/runs/{run_id}/weights?step=1")["items"]
    assert len({round(row["reward"], 6) for row in rows}) > 2  # real scores, not labels
    best, worst = max(rows, key=lambda row: row["reward"]), min(rows, key=lambda row: row["reward"])
    assert best["weight"] > worst["weight"]


def test_a_stream_can_be_cut_and_resumed_without_loss(studio: Studio, shared: Path, shared_models: Path) -> None:
    run_id = studio.get("/api/v1/runs")["items"][0]["id"]
    recorded = [event["seq"] for event in studio.events(run_id)]
    received: list[int] = []
    while not received or received[-1] < recorded[-1]:
        headers = {"Last-Event-ID": str(received[-1])} if received else {}
        with studio.http.stream("GET", f"/api/v1/runs/{run_id}/stream", headers=headers) as answer:
            ids = (int(line.removeprefix("id:")) for line in answer.iter_lines() if line.startswith("id:"))
            received += itertools.islice(ids, 10)
    assert received == recorded
