"""Rewards as the recipe wants them treated, in whole runs, and what is refused."""

import pyarrow.parquet as pq
import pytest
import torch

from app.domain.errors import RecipeInvalid
from app.domain.recipe import parse_recipe
from tests.worker.test_runner import artifacts, outcome
from tests.worker.workshop import make_recipe, read_events

SHORT = {"training": {"steps": 1}, "evaluation": {"num_prompts": 0}, "weights": {"lambda": 0.5, "preset": "within_prompt"}}


def kept_weights(folder) -> dict[str, torch.Tensor]:
    table = pq.read_table(artifacts(folder) / "weights.parquet")
    return {name: torch.tensor(table[name].to_pylist()).double() for name in ("reward", "num_tokens", "example_id")}


def test_a_run_weighs_rewards_without_what_length_explains(workshop, run):
    plain = workshop.attempt(reward_folder=workshop.reward(), **SHORT)
    treated = workshop.attempt(reward_folder=workshop.reward(), **SHORT, reward={"length_control": True})
    assert run(plain) == run(treated) == 0, outcome(treated)
    before, after = kept_weights(plain), kept_weights(treated)
    assert abs(float(torch.corrcoef(torch.stack([after["reward"], after["num_tokens"]]))[0, 1])) < 1e-4
    assert float(after["reward"].mean()) == pytest.approx(float(before["reward"].mean()), abs=1e-4)
    assert any("Length explained" in event["payload"]["text"] for event in read_events(treated, "log"))


def test_rewards_within_prompts_are_plus_and_minus_one_for_a_pair(workshop, run):
    folder = workshop.attempt(reward_folder=workshop.reward(), **SHORT, reward={"per_prompt": True})
    assert run(folder) == 0, outcome(folder)
    assert kept_weights(folder)["reward"].abs().tolist() == pytest.approx([1.0] * len(kept_weights(folder)["reward"]), abs=1e-4)


def test_fresh_answers_are_treated_by_the_same_line(workshop, run):
    parts = {**SHORT, "online": {"every": 1, "num_responses": 3, "max_new_tokens": 4}}
    folder = workshop.attempt(reward_folder=workshop.reward(), **parts, reward={"length_control": True, "per_prompt": True})
    assert run(folder) == 0, outcome(folder)
    (step,) = read_events(folder, "step")
    assert step["payload"]["metrics"]["online/reward_mean"] == pytest.approx(0, abs=1e-4)


def test_what_can_not_be_treated_is_refused_with_a_sentence(workshop, run):
    with pytest.raises(RecipeInvalid, match=r"set weights\.cross_reward to reuse"):
        parse_recipe(make_recipe(True).to_dict() | {"reward": {"source": "model", "model": "r", "per_prompt": True}})
    rows = [{**row, "responses": row["responses"][:1]} for row in workshop.examples()]
    parts = SHORT | {"weights": {"lambda": 0.5, "preset": "reward_weighted"}}
    dataset = workshop.dataset(rows, "single")
    folder = workshop.attempt(dataset=dataset, reward_folder=workshop.reward(), **parts, reward={"per_prompt": True})
    assert run(folder) == 10
    assert "one response per prompt, which has no deviation from itself" in outcome(folder)["reason"]
