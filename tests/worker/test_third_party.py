"""A real pretrained policy on real preference data, where they are at hand."""

import json
from pathlib import Path

import pytest

from tests.worker.workshop import read_events

POLICY = "models/stories260K-hf"


def read_transcripts(path: Path, num: int) -> list[dict]:
    """The first pairs of an HH file that share their prompt: the text up to the last answer."""
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        pair = json.loads(text)
        (prompt, chosen), (other, rejected) = (pair[key].rsplit("\n\nAssistant:", 1) for key in ("chosen", "rejected"))
        if prompt != other or not chosen.strip() or not rejected.strip():
            continue
        turns = []
        for turn in prompt.split("\n\nHuman:")[1:]:
            parts = turn.split("\n\nAssistant:")
            turns.append({"role": "user", "content": parts[0].strip()})
            turns += [{"role": "assistant", "content": part.strip()} for part in parts[1:]]
        responses = [
            {"content": chosen.strip(), "rating": None, "preference": 1},
            {"content": rejected.strip(), "rating": None, "preference": -1},
        ]
        rows.append({"example_id": len(rows), "line": line, "prompt": turns, "responses": responses})
        if len(rows) == num:
            break
    return rows


def read_scored(path: Path, num: int) -> list[dict]:
    """The first rows of a file with candidates and a reward model's scores."""
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(text)
        prompt = [{"role": "user", "content": row["prefix"][0][0].removeprefix("<|prompter|>")}]
        responses = [
            {"content": content, "rating": reward, "preference": 1 if k == row["sft_index"] else -1}
            for k, (content, reward) in enumerate(zip(row["suffix"], row["reward"], strict=True))
            if content
        ]
        rows.append({"example_id": len(rows), "line": line, "prompt": prompt, "responses": responses})
        if len(rows) == num:
            break
    return rows


SHORT = {
    "tokens": {"max_prompt": 96, "max_response": 64},
    "training": {"batch_size": 4, "steps": 8, "learning_rate": 1e-3},
    "evaluation": {"share": 0.2, "num_prompts": 4, "max_new_tokens": 16, "every": 8},
}


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_pretrained_policy_learns_from_human_preferences(workshop, run, shared, adaptation):
    dataset = workshop.dataset(read_transcripts(shared / "data/hh/helpful-base.jsonl", 40), "helpful")
    policy = {"adaptation": adaptation}
    folder = workshop.attempt(policy=shared / POLICY, dataset=dataset, policy_settings=policy, **SHORT)
    assert run(folder) == 0, read_events(folder)[-1]
    evaluations = [event["payload"]["metrics"] for event in read_events(folder, "evaluation")]
    assert evaluations[-1]["eval/loss"] < evaluations[0]["eval/loss"]
    assert evaluations[-1]["eval/kl"] > 0


def test_a_context_window_smaller_than_the_recipe_is_respected_and_told(workshop, run, shared):
    dataset = workshop.dataset(read_transcripts(shared / "data/hh/helpful-base.jsonl", 16), "helpful-long")
    folder = workshop.attempt(
        policy=shared / POLICY, dataset=dataset, tokens={"max_prompt": 512, "max_response": 512},
        training={"steps": 1}, evaluation={"share": 0.0},
    )  # fmt: skip
    assert run(folder) == 0, read_events(folder)[-1]
    texts = [event["payload"]["text"] for event in read_events(folder, "log")]
    assert any("context window is 512 tokens: prompts are cut to 256, responses to 256" in text for text in texts)


def test_the_rating_column_is_a_reward(workshop, run, shared):
    dataset = workshop.dataset(read_scored(shared / "data/hh_reward_scored/helpful_base.first500.json", 24), "scored")
    folder = workshop.attempt(policy=shared / POLICY, dataset=dataset, reward={"source": "rating"}, **SHORT)
    assert run(folder) == 0, read_events(folder)[-1]
    steps = [event["payload"]["metrics"] for event in read_events(folder, "step")]
    assert all(step["reward/std"] > 0.1 for step in steps)
    assert sum(step["weight/spearman_reward"] for step in steps) / len(steps) > 0.5
