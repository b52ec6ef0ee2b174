"""Runs whose rewards are several models' together: one model in memory, each one's scores kept for itself, all uses alike."""

import math
import weakref

import pyarrow.parquet as pq
import pytest
import torch

from app.domain.errors import RecipeInvalid
from app.domain.preview.weights import PreviewJob
from app.domain.recipe import parse_recipe
from tests.worker.test_runner import artifacts, outcome
from tests.worker.test_scoring_runs import logs, scoring_of
from tests.worker.workshop import make_recipe, read_events
from worker.models.reward import RewardModel
from worker.preview.grid import preview
from worker.stages.scoring import sources
from worker.stages.scoring.cache import read_scores
from worker.stages.scoring.index import read_index
from worker.stages.training import rounds
from worker.var.ensemble import measure_scale

SHORT = {"training": {"steps": 1}, "evaluation": {"num_prompts": 0, "share": 0.0}}
MAKE, DRAW = RewardModel, rounds.draw


@pytest.fixture(scope="module")
def members(workshop):
    return [workshop.reward(), workshop.reward(seed=8), workshop.reward(seed=9)]


@pytest.fixture(scope="module")
def scorings(workshop):
    return workshop.root / "scorings-of-ensembles"


@pytest.fixture
def attempt(workshop, members, scorings):
    """An attempt with the first so many reward models."""

    def make(num: int = 3, **parts):
        parts = {**SHORT, "scorings": scorings, "weights": {"lambda": 0.5, "preset": "reward_weighted"}, **parts}
        return workshop.attempt(reward_folder=members[0], further=members[1:num], **parts)

    return make


def combine(scorings, facts, caution):
    """Mean less `caution` deviations of the kept scores of each model, by hand."""
    keys = read_scores(scorings, facts.reward.key).manifest.facts["models"].split()
    index, kept = read_index(scorings, facts.index_key), [read_scores(scorings, key) for key in keys]
    own = [part.raw[index.places] if part.cross else part.raw for part in kept]
    scaled = [own[0].mean() + own[0].std(correction=0) * (r - r.mean()) / r.std(correction=0) for r in own]
    together = torch.stack(scaled)
    return keys, together.mean(dim=0) - caution * together.std(dim=0)


def test_each_model_is_asked_alone_and_their_mean_less_their_deviation_is_what_is_weighed(
    attempt, run, scorings, monkeypatch, workshop
):
    alive: list[weakref.ref] = []
    together = []

    def make_tracked(*parts, **options):
        together.append(sum(one() is not None for one in alive))
        model = MAKE(*parts, **options)
        alive.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(sources, "RewardModel", make_tracked)
    folder = attempt(reward={"caution": 0.5}, kind="scoring")
    assert run(folder) == 0, outcome(folder)
    assert together == [0, 0, 0]
    facts = scoring_of(folder)
    keys, expected = combine(scorings, facts, 0.5)
    assert len(set(keys)) == 3
    assert {*keys} <= {*facts.more_keys}
    index, kept = read_index(scorings, facts.index_key), read_scores(scorings, facts.reward.key)
    assert kept.scores[index.places].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert facts.check.mean == pytest.approx(float(expected.mean()), abs=1e-4)
    told = facts.check.ensemble
    assert told is not None
    assert (told.caution, len(told.accuracies)) == (0.5, 3)
    assert -1 <= told.correlation <= 1
    assert 0 <= told.same_order <= 1
    job = PreviewJob(
        scorings_dir=str(scorings), index_key=facts.index_key, logprob_key=facts.logprob.key, reward_key=facts.reward.key,
        reward_source="model", batch_size=4, dataset_path=str(workshop.dataset(workshop.examples())), ensemble=told,
        request={"presets": ["reward_weighted"], "lambda": [0.5]},
    )  # fmt: skip
    result = preview(job)
    assert result.check.ensemble == told
    assert "reward_disagreement" in [finding.name for finding in result.findings]  # random models agree on nothing


def test_models_that_were_asked_before_are_found_whatever_the_others_and_the_caution(attempt, run, scorings):
    first = attempt(1)
    assert run(first) == 0, outcome(first)
    both = attempt(2, reward={"caution": 2.0})
    assert run(both) == 0, outcome(both)
    assert "The rewards of model 1 of 2 of all" in logs(both)
    again = attempt(2, reward={"caution": 0.0})
    assert run(again) == 0, outcome(again)
    facts = scoring_of(again)
    assert facts.reward.hit
    assert facts.reward.key != scoring_of(both).reward.key
    table = pq.read_table(artifacts(again) / "weights.parquet")
    _, mean = combine(scorings, facts, 0.0)
    assert sorted(table["reward"].to_pylist()) == pytest.approx(sorted(mean.tolist()), abs=1e-4)
    names = [event["payload"]["name"] for event in read_events(again, "finding")]
    assert "reward_disagreement" in names


def test_stopped_between_two_models_the_next_attempt_goes_on_with_the_second(attempt, run, workshop, tmp_path, monkeypatch):
    folder = attempt(2, scorings=tmp_path)
    asked = []

    def stop_before_the_second(path, **options):
        asked.append(path.name)
        if len(asked) == 2:
            (folder / "cancel").touch()
        return MAKE(path, **options)

    monkeypatch.setattr(sources, "RewardModel", stop_before_the_second)
    assert run(folder) == 11
    after = workshop.next_attempt(folder)
    assert run(after) == 0, outcome(after)
    assert asked == ["reward-llama-pad", "reward-llama-pad-8", "reward-llama-pad-8"]
    assert not scoring_of(after).reward.hit


def test_draws_are_rewarded_by_all_models_and_counted_in_deviations_of_their_prompt(attempt, run):
    weights = {"preset": "draws", "lambda": 0.5, "responses": "all"}
    folder = attempt(2, weights=weights, draws={"num_draws": 3, "max_new_tokens": 6}, reward={"per_prompt": True})
    assert run(folder) == 0, outcome(folder)
    facts = scoring_of(folder).draws
    assert [key.split("-")[0] for key in facts.made_keys] == ["draws", "draw_rewards", "draw_rewards"]
    prompts = {}
    for row in pq.read_table(artifacts(folder) / "weights.parquet").to_pylist():
        prompts.setdefault(row["example_id"], []).append(row)
    weights, expected = [], []
    for rows in prompts.values():
        rewards = torch.tensor([row["reward"] for row in rows])
        assert float(rewards.mean()) == pytest.approx(0, abs=1e-4)  # over the prompt's two responses and three draws
        assert float(rewards.std(correction=0)) == pytest.approx(1, abs=1e-3)
        for row in rows:
            others = [math.exp(one["reward"] / 0.5) for one in rows if one["response"] < 0 and one is not row]
            weights.append(row["weight"])
            expected.append(math.exp(row["reward"] / 0.5) * len(others) / sum(others))
    scale = sum(expected) / len(expected)
    assert weights == pytest.approx([one / scale for one in expected], rel=1e-3)


def test_draws_give_prompts_of_one_response_a_deviation_of_their_own(attempt, run, workshop):
    rows = [{**row, "responses": row["responses"][:1]} for row in workshop.examples()]
    parts = {"weights": {"preset": "draws", "lambda": 0.5}, "draws": {"num_draws": 2, "max_new_tokens": 6}}
    folder = attempt(1, dataset=workshop.dataset(rows, "single"), reward={"per_prompt": True}, **parts)
    assert run(folder) == 0, outcome(folder)


def test_fresh_answers_are_judged_by_all_models_on_the_scale_of_the_data(attempt, run, scorings, monkeypatch):
    seen = []

    def draw(attempt, model, ground, examples, first, models, **options):
        drawn = DRAW(attempt, model, ground, examples, first, models, **options)
        asked = [example for example in examples for _ in range(2)]
        texts = [text for one in drawn for text in one.texts]
        rewards = [torch.tensor(member.score_answers(asked, texts)) for member in models.members]
        seen.append((rewards, [reward for one in drawn for reward in one.rewards]))
        return drawn

    monkeypatch.setattr(rounds, "draw", draw)
    folder = attempt(2, online={"every": 1, "num_responses": 2, "max_new_tokens": 4}, reward={"caution": 0.5})
    assert run(folder) == 0, outcome(folder)
    facts = scoring_of(folder)
    keys, _ = combine(scorings, facts, 0.5)
    index, kept = read_index(scorings, facts.index_key), [read_scores(scorings, key) for key in keys]
    scale = measure_scale([part.raw[index.places] if part.cross else part.raw for part in kept], 0.5)
    [(rewards, taken)] = seen
    assert taken == pytest.approx(scale.combine(rewards)[0].tolist(), abs=1e-4)


def test_a_model_beside_itself_is_refused(workshop, run, members):
    twin = workshop.attempt(reward_folder=members[0], further=[members[1], members[0]], **SHORT)
    assert run(twin) == 10
    assert "reward.third has the weights of reward.model, so the two agree" in outcome(twin)["reason"]


@pytest.mark.parametrize(
    ("reward", "parts", "sentence"),
    [
        ({"source": "rating", "second": "a"}, {}, "Rewards come from the rating, which is one opinion"),
        ({"source": "model", "model": "m", "third": "a"}, {}, "There is no second reward model"),
        ({"source": "model", "model": "m", "second": "m"}, {}, "It is reward.model itself"),
        ({"source": "model", "model": "m", "second": "a", "third": "a"}, {}, "It is named twice"),
        ({"source": "model", "model": "m", "second": "a", "caution": -1}, {}, "reward.caution"),
        ({"source": "model", "model": "m", "second": "a"}, {"method": "grpo"}, "grpo scores no data by which"),
    ],
)
def test_what_is_no_ensemble_is_refused_with_a_sentence(reward, parts, sentence):
    with pytest.raises(RecipeInvalid, match=sentence):
        parse_recipe({**make_recipe(True).to_dict(), **parts, "reward": reward})
