"""Scoring as the runner does it: runs that only score, what every run tells of its scores, and several runs at once."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from app.domain.scoring import ScoringFacts
from tests.worker.test_runner import outcome, read_events_safely, wait_for
from tests.worker.workshop import fork_runner, read_events, start_runner
from worker.stages.scoring.cache import read_scores
from worker.stages.scoring.index import read_index


def scoring_of(folder: Path) -> ScoringFacts:
    (event,) = read_events(folder, "scoring")
    return ScoringFacts.model_validate(event["payload"]["scoring"])


def logs(folder: Path) -> str:
    return "\n".join(event["payload"]["text"] for event in read_events(folder, "log"))


@pytest.fixture(scope="module")
def scored(workshop):
    """A run that scores everything, and its folder of scorings."""
    scorings = workshop.root / "scorings-of-runs"
    folder = workshop.attempt(
        kind="scoring", reward_folder=workshop.reward(), scorings=scorings, weights={"preset": "within_prompt"}
    )
    assert start_runner(folder).wait(120) == 0, read_events(folder)[-1]
    return folder, scorings


def test_a_scoring_run_scores_every_pair_and_trains_nothing(scored):
    folder, scorings = scored
    facts = scoring_of(folder)
    assert facts.logprob.cross
    assert facts.reward is not None
    assert facts.reward.cross
    index = read_index(scorings, facts.index_key)
    for part in (facts.logprob, facts.reward):
        assert (part.hit, part.num_scored) == (False, part.num_pairs)
        assert part.miss_reason.endswith("kept yet.")
        assert part.num_pairs == sum(index.sizes) == len(read_scores(scorings, part.key).scores)
        assert part.size_bytes == (scorings / part.key / "scores.safetensors").stat().st_size
        assert part.seconds > 0
    assert facts.num_responses == len(index.own_N)
    assert facts.check.num_responses == facts.num_responses
    assert outcome(folder)["outcome"] == "succeeded"
    assert outcome(folder)["summary"]["reward/mean"] == pytest.approx(facts.check.mean)
    assert [event["payload"]["stage"] for event in read_events(folder, "stage")] == ["prepare", "score"]
    told = [event["payload"] for event in read_events(folder, "progress") if event["payload"]["stage"] == "score"]
    shares = [one["done"] / one["total"] for one in told]
    assert (shares, shares[-1]) == (sorted(shares), 1.0)
    assert [event["payload"]["name"] for event in read_events(folder, "artifact")] == ["recipe.json"]
    assert sorted(path.name for path in (folder.parents[1] / "artifacts").iterdir()) == ["recipe.json"]


@pytest.mark.parametrize("preset", ["paper", "within_prompt"])
def test_a_training_run_finds_everything_a_scoring_made(workshop, run, scored, preset):
    _, scorings = scored
    weights = {"preset": preset, "lambda": 3.0}
    folder = workshop.attempt(reward_folder=workshop.reward(), scorings=scorings, weights=weights, training={"steps": 1})
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder)
    assert facts.logprob.hit
    assert facts.reward is not None
    assert facts.reward.hit
    assert (facts.logprob.seconds, facts.logprob.miss_reason) == (0.0, "")
    assert [event["payload"]["stage"] for event in read_events(folder, "stage")][:2] == ["prepare", "train"]


@pytest.mark.parametrize(("preset", "num_more"), [("length_normalised", 1), ("reward_weighted", 0)])
def test_weights_over_two_plans_score_the_second_only_where_it_needs_other_prompts(workshop, run, preset, num_more):
    scorings = workshop.root / f"scorings-of-plans-{preset}"
    weights = {"preset": preset, "lambda": 1.0, "plans": 2}
    folder = workshop.attempt(scorings=scorings, weights=weights, training={"steps": 1})
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder)
    assert len(facts.more_keys) == num_more
    assert all((scorings / key / "manifest.json").is_file() for key in facts.more_keys)
    assert len(list(scorings.glob("logprob-*"))) == 1 + num_more
    assert "of a weight's variance with one plan, and" in logs(folder)


def test_a_miss_says_what_differs(workshop, run, scored):
    _, scorings = scored
    folder = workshop.attempt(kind="scoring", scorings=scorings, training={"batch_size": 2})
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder)
    assert facts.reward is None  # labels stand in the data
    assert facts.logprob.miss_reason == "The nearest kept log-probabilities differ in the batch size (4 there, 2 here)."
    assert facts.logprob.miss_reason in logs(folder)
    assert facts.check.accuracy == 1.0


def test_a_miss_names_the_held_out_share_when_the_data_are_the_same(workshop, run, scored):
    _, scorings = scored
    folder = workshop.attempt(kind="scoring", scorings=scorings, evaluation={"share": 0.4})
    assert run(folder) == 0, read_events(folder)[-1]
    assert "differ in the held-out share (" in scoring_of(folder).logprob.miss_reason


def test_conversations_that_the_reward_model_cannot_read_whole_are_told(workshop, run, scored, tmp_path):
    rows = workshop.examples(4)
    rows[1]["prompt"][0]["content"] = "again " * 300
    reward = Path(shutil.copytree(workshop.reward(), tmp_path / "reward"))
    config = json.loads((reward / "config.json").read_text())
    (reward / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 120}))
    folder = workshop.attempt(
        kind="scoring", dataset=workshop.dataset(rows, "wordy"), reward_folder=reward,
        weights={"preset": "within_prompt"}, tokens={"max_prompt": 160}, training={"batch_size": 2}, evaluation={"share": 0.0},
    )  # fmt: skip
    assert run(folder) == 0, read_events(folder)[-1]
    (told,) = (event["payload"] for event in read_events(folder, "log") if event["payload"]["level"] == "warning")
    assert told["text"] == "The reward model reads at most 120 tokens: 4 of 16 conversations lose their beginning."
    assert "lose their beginning" not in logs(scored[0])


def test_damaged_scores_are_told_and_made_again(workshop, run):
    scorings = workshop.root / "scorings-damaged"
    assert run(workshop.attempt(kind="scoring", scorings=scorings)) == 0
    (path,) = scorings.glob("logprob-*/scores.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    folder = workshop.attempt(kind="scoring", scorings=scorings)
    assert run(folder) == 0, read_events(folder)[-1]
    assert scoring_of(folder).logprob.miss_reason == "The log-probabilities that were kept are damaged and are made again."
    again = workshop.attempt(kind="scoring", scorings=scorings)
    assert run(again) == 0
    assert scoring_of(again).logprob.hit


def test_a_scoring_that_was_cancelled_goes_on_where_it_stopped(workshop):
    scorings = workshop.root / "scorings-cancelled"
    rows = workshop.dataset(workshop.examples(400), "many")
    folder = workshop.attempt(kind="scoring", dataset=rows, scorings=scorings, training={"batch_size": 2})
    process = fork_runner(folder)
    wait_for(folder, "stage", 2)
    while not list(scorings.glob("*.partial/group-*.safetensors")):
        assert process.exitcode is None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    kept = len(list(scorings.glob("*.partial/group-*.safetensors")))
    after = workshop.next_attempt(folder)
    again = fork_runner(after)
    wait_for(after, "stage", 2)
    (after / "cancel").touch()
    again.join(60)
    assert again.exitcode == 11
    last = workshop.next_attempt(after)
    assert start_runner(last).wait(120) == 0
    facts = scoring_of(last)
    assert facts.logprob.num_scored == facts.logprob.num_pairs
    assert kept >= 1
    assert not list(scorings.glob("*.partial"))


def test_two_runs_that_need_the_same_scores_make_them_once(workshop):
    scorings = workshop.root / "scorings-at-once"
    rows = workshop.dataset(workshop.examples(300), "at-once")
    attempts = [workshop.attempt(kind="scoring", dataset=rows, scorings=scorings) for _ in range(2)]
    processes = [fork_runner(folder) for folder in attempts]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    hits = sorted(scoring_of(folder).logprob.hit for folder in attempts)
    assert hits == [False, True]
    waited = next(folder for folder in attempts if scoring_of(folder).logprob.hit)
    assert "Another process is making the same log-probabilities: waiting for it." in logs(waited)
    assert len(read_events_safely(waited, "stage")) == 1
    assert len(list(scorings.iterdir())) == 2  # log-probabilities and index, no lock


def test_inverted_rewards_end_a_training_run_but_not_a_scoring(workshop, run):
    rows = workshop.examples(40)
    for row in rows:
        for response in row["responses"]:
            response["rating"] = -response["rating"]
    dataset, ratings = workshop.dataset(rows, "inverted"), {"source": "rating"}
    scorings = workshop.root / "scorings-inverted"
    assert run(workshop.attempt(kind="scoring", dataset=dataset, reward=ratings, scorings=scorings)) == 0
    folder = workshop.attempt(dataset=dataset, reward=ratings, scorings=scorings, training={"steps": 1})
    assert run(folder) == 10
    last = outcome(folder)
    assert "The rewards contradict the preference labels" in last["reason"]
    assert (last["retry"], last["remedy"]) == (False, "")
    assert scoring_of(folder).check.inverted
    accepted = workshop.attempt(
        dataset=dataset, reward={**ratings, "accept_inverted": True}, scorings=scorings, training={"steps": 1}
    )
    assert run(accepted) == 0


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_reward_model_of_another_architecture_and_tokenizer_scores_every_pair(workshop, run, kind):
    """The policy is a Llama with a chat template; the reward model an encoder, or a decoder without a pad token."""
    reward = workshop.encoder_reward() if kind == "bert" else workshop.reward("gpt2", pad=False)
    folder = workshop.attempt(kind="scoring", policy=workshop.policy(chat=True), reward_folder=reward)
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder)
    assert facts.reward is not None
    assert facts.reward.num_scored == facts.reward.num_pairs
    assert facts.check.std > 0
    assert ("names no pad token" in logs(folder)) == (kind == "gpt2")


def test_the_reward_model_is_gone_before_the_policy_is_loaded(workshop, run, monkeypatch):
    import weakref

    from worker.models.reward import RewardModel
    from worker.stages.scoring import sources

    alive: list[weakref.ref[RewardModel]] = []
    seen = []
    make, load = sources.RewardModel, sources.load_policy

    def make_tracked(*parts, **options):
        model = make(*parts, **options)
        alive.append(weakref.ref(model.network))
        return model

    def load_tracked(*parts, **options):
        seen.append([reference() is None for reference in alive])
        return load(*parts, **options)

    monkeypatch.setattr(sources, "RewardModel", make_tracked)
    monkeypatch.setattr(sources, "load_policy", load_tracked)
    folder = workshop.attempt(reward_folder=workshop.reward(), kind="scoring")
    assert run(folder) == 0, read_events(folder)[-1]
    assert seen == [[True]]
    assert torch.is_inference_mode_enabled() is False
