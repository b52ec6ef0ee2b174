"""Online VAR as whole runs: the policy answers, is weighed on its answers, and goes on bit-equal after a kill."""

import json
import re

import pytest

from app.domain.errors import RecipeInvalid
from app.domain.metrics import CATALOGUE
from app.domain.recipe import parse_recipe
from tests.worker.test_runner import artifacts, outcome, series, wait_for, weights_digest
from tests.worker.workshop import fork_runner, make_recipe, read_events

ONLINE = {
    "online": {"every": 3, "num_responses": 3, "max_new_tokens": 8},
    "weights": {"lambda": 0.5, "reward_norm": "zscore", "logprob_norm": "mean"},
    "training": {"steps": 8, "learning_rate": 3e-3, "checkpoint_every": 1},
}


def metrics_of(folder) -> list[dict]:
    return [event["payload"]["metrics"] for event in read_events(folder, "step")]


def mean(key, steps) -> float:
    return sum(metrics[key] for metrics in steps) / len(steps)


@pytest.fixture(scope="module")
def undisturbed(workshop):
    folder = workshop.attempt(reward_folder=workshop.reward(), **ONLINE)
    process = fork_runner(folder)
    process.join(120)
    assert process.exitcode == 0, outcome(folder)
    return folder


def test_every_round_is_told_and_its_steps_are_weighed_prompt_by_prompt(undisturbed):
    texts = [event["payload"]["text"] for event in read_events(undisturbed, "log")]
    rounds = [text for text in texts if "the policy answered" in text]
    assert [text.split(":")[0] for text in rounds] == ["Step 1", "Step 4", "Step 7"]
    assert "prompts 3 times each, for steps 7 to 8; mean reward" in rounds[-1]
    steps = metrics_of(undisturbed)
    assert len(steps) == 8
    for metrics in steps:
        assert set(metrics) <= set(CATALOGUE)
        assert metrics["weight/mean"] == pytest.approx(1, abs=1e-4)
        assert metrics["weight/off_diagonal"] == pytest.approx(0, abs=1e-9)
        assert 1 / 3 <= metrics["online/ess_share"] <= 1
        assert 1 <= metrics["online/length"] <= 8
        assert metrics["online/reward_mean"] == pytest.approx(metrics["reward/mean"])
    assert all(abs(metrics["online/kl"]) < 1e-3 for metrics in steps[:3])  # the first round is drawn from the reference
    assert any(abs(metrics["online/kl"]) > 1e-3 for metrics in steps[3:])
    assert sum(read_events(undisturbed, "step")[0]["payload"]["histogram"]) == 12


def test_only_own_rewards_of_the_data_are_scored(undisturbed):
    (scoring,) = [event["payload"]["scoring"] for event in read_events(undisturbed, "scoring")]
    assert scoring["logprob"]["num_pairs"] == scoring["reward"]["num_pairs"] == scoring["num_responses"]
    assert not (artifacts(undisturbed) / "weights.parquet").exists()


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_killed_within_a_round_goes_on_with_its_answers_and_ends_bit_equal(workshop, run, undisturbed, step):
    folder = workshop.attempt(reward_folder=workshop.reward(), **ONLINE)
    process = fork_runner(folder)
    wait_for(folder, "step", step)
    process.kill()
    process.join()
    second = workshop.next_attempt(folder)
    assert run(second) == 0, outcome(second)
    assert weights_digest(second) == weights_digest(undisturbed)
    assert series(second) == series(undisturbed)


def test_an_adapter_switched_off_is_the_reference(workshop, run):
    folder = workshop.attempt(
        reward_folder=workshop.reward(), policy_settings={"adaptation": "lora"}, **{**ONLINE, "training": {"steps": 4}}
    )
    assert run(folder) == 0, outcome(folder)
    assert abs(metrics_of(folder)[0]["online/kl"]) < 1e-3 < abs(metrics_of(folder)[3]["online/kl"])


def test_fresh_answers_raise_the_reward_of_fresh_answers(workshop, run):
    folder = workshop.attempt(
        reward_folder=workshop.reward(),
        online={"every": 1, "num_responses": 16, "max_new_tokens": 1},
        weights={"lambda": 0.5, "logprob_norm": "sum"},
        training={"steps": 20, "learning_rate": 5e-3, "checkpoint_every": 100, "schedule": "constant"},
        evaluation={"every": 100, "num_prompts": 2},
    )  # fmt: skip
    assert run(folder) == 0, outcome(folder)
    first, last = metrics_of(folder)[:2], metrics_of(folder)[-8:]
    assert mean("online/reward_mean", last) > mean("online/reward_mean", first) + 0.3
    assert mean("online/ess_share", last) > mean("online/ess_share", first) + 0.05  # nearer to π*, the weights are more alike


def test_without_a_reward_model_online_is_refused_with_a_sentence():
    with pytest.raises(ValueError, match="Fresh responses have no rating and no label"):
        make_recipe(online={"every": 2})
    with pytest.raises(ValueError, match="sft learns from the data's responses, not from fresh ones"):
        make_recipe(True, online={"every": 2}, method="sft")


def test_a_spec_without_the_reward_model_is_refused_with_a_sentence(workshop, run):
    folder = workshop.attempt(reward_folder=workshop.reward(), **ONLINE)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "reward": None}))
    assert run(folder) == 10
    assert "where it is" in outcome(folder)["reason"]


GROUPS = {
    "online": {"every": 2, "num_responses": 3, "max_new_tokens": 6},
    "weights": {"lambda": None},
    "training": {"steps": 5, "learning_rate": 3e-3, "checkpoint_every": 1},
    "evaluation": {"num_prompts": 0},
}


@pytest.mark.parametrize("method", ["raft", "rloo", "grpo"])
def test_the_methods_on_groups_train_on_fresh_answers_and_go_on_bit_equal_within_a_round(workshop, run, method):
    parts = {"reward_folder": workshop.reward(), "method": method, **GROUPS}
    undisturbed = workshop.attempt(**parts)
    assert run(undisturbed) == 0, outcome(undisturbed)
    steps = metrics_of(undisturbed)
    assert all(set(metrics) <= set(CATALOGUE) for metrics in steps)
    assert [("group/kl" in metrics) for metrics in steps] == [method != "raft"] * 5
    assert all(abs(metrics["online/kl"]) < 1e-3 for metrics in steps[:2])  # the first round is drawn from the reference
    assert not read_events(undisturbed, "scoring")
    folder = workshop.attempt(**parts)
    process = fork_runner(folder)
    wait_for(folder, "step", 3)
    process.kill()
    process.join()
    second = workshop.next_attempt(folder)
    assert run(second) == 0, outcome(second)
    assert weights_digest(second) == weights_digest(undisturbed)
    assert series(second) == series(undisturbed)


def test_grpo_learns_what_the_reward_model_likes(workshop, run):
    folder = workshop.attempt(
        reward_folder=workshop.reward(), method="grpo", weights={"lambda": None}, evaluation={"num_prompts": 0},
        online={"every": 1, "num_responses": 16, "max_new_tokens": 1},
        training={"steps": 16, "learning_rate": 1e-2, "checkpoint_every": 1000},
    )  # fmt: skip
    assert run(folder) == 0, outcome(folder)
    steps = metrics_of(folder)
    assert mean("online/reward_mean", steps[-4:]) > mean("online/reward_mean", steps[:4]) + 0.2


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"method": "grpo"}, "grpo learns from fresh responses, which have no rating and no label: choose a reward model."),
        ({"method": "dpo", "online": {"every": 2}}, "dpo learns from the data's responses, not from fresh ones: leave it empty."),
    ],
)
def test_what_a_method_on_groups_needs_is_said(parts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make_recipe(**parts)


def test_groups_are_fresh_before_each_step_unless_it_is_said_and_drawn_at_a_temperature_of_one():
    assert make_recipe(True, method="rloo").online.every == 1
    with pytest.raises(RecipeInvalid, match="draw at a temperature of 1"):
        parse_recipe(make_recipe(True, method="rloo", online={"temperature": 1.2}).to_dict())
