"""Runs with Z(x) from draws of the reference: made once, found again, gone on with after a kill, and weighed as told."""

import math
import os
import signal
from collections import defaultdict

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from app.domain.preview.weights import DrawnScores, PreviewJob
from tests.worker.test_runner import outcome
from tests.worker.test_scoring_runs import logs, scoring_of
from tests.worker.workshop import fork_runner, read_events
from worker.models.generate import generate
from worker.preview.grid import preview
from worker.running.failpoints import listen

GENERATE = generate
DRAWS = {"num_draws": 3, "max_new_tokens": 6}


def attempt(workshop, scorings, *, draws=None, weights=None, **parts):
    asked = {"preset": "draws", "lambda": 0.5, **(weights or {})}
    parts.setdefault("training", {"steps": 1})
    return workshop.attempt(
        reward_folder=workshop.reward(), scorings=scorings, weights=asked, draws={**DRAWS, **(draws or {})}, **parts
    )


def read_weights(folder):
    """The rows of weights.parquet by example."""
    rows = defaultdict(list)
    for row in pq.read_table(folder.parents[1] / "artifacts" / "weights.parquet").to_pylist():
        rows[row["example_id"]].append(row)
    return rows


def read_rewards(folder):
    return [row["reward"] for _, rows in sorted(read_weights(folder).items()) for row in rows]


@pytest.fixture(scope="module")
def scorings(workshop):
    return workshop.root / "scorings-of-draws"


@pytest.fixture(scope="module")
def first(workshop, scorings):
    """A run that trains on data and draws, at λ = 0.5."""
    folder = attempt(workshop, scorings, weights={"responses": "all"})
    process = fork_runner(folder)
    process.join(120)
    assert process.exitcode == 0, read_events(folder)[-1]
    return folder


def test_every_prompt_is_answered_once_and_rewarded_once(first, scorings):
    facts = scoring_of(first).draws
    assert facts is not None
    assert (facts.num_draws, facts.hit) == (3, False)
    (made,) = (load_file(path) for path in scorings.glob("draws-*/draws.safetensors"))
    (rewarded,) = (load_file(path) for path in scorings.glob("draw_rewards-*/rewards.safetensors"))
    assert len(made["num_tokens"]) == len(rewarded["reward"]) == 3 * facts.num_prompts
    assert int(made["num_tokens"].sum()) == len(made["ids"]) == facts.num_tokens
    assert facts.keys <= {path.name for path in scorings.iterdir()}
    assert [event["payload"]["stage"] for event in read_events(first, "stage")][:4] == ["prepare", "score", "draw", "train"]
    assert not list(scorings.glob("*.partial"))


def test_the_weights_are_those_of_the_mean_over_the_draws_without_a_draws_own(first):
    """exp(r/λ)/Ẑ(x), then one scale for the whole data set."""
    weights, expected = [], []
    for rows in read_weights(first).values():
        drawn = [row for row in rows if row["response"] < 0]
        assert [row["response"] for row in drawn] == [-1, -2, -3]
        for row in rows:
            others = [math.exp(other["reward"] / 0.5) for other in drawn if other is not row]
            weights.append(row["weight"])
            expected.append(math.exp(row["reward"] / 0.5) * len(others) / sum(others))
    mean = sum(expected) / len(expected)
    assert weights == pytest.approx([one / mean for one in expected], rel=1e-4)
    assert sum(weights) / len(weights) == pytest.approx(1.0, rel=1e-5)


def test_data_that_the_reference_would_not_have_written_are_a_finding_with_its_remedy(first):
    (finding,) = (e["payload"] for e in read_events(first, "finding") if e["payload"]["name"] == "foreign_data")
    assert "nats a token and its own draws" in finding["evidence"]
    assert [(change["field"], change["value"]) for change in finding["changes"]] == [
        ("method", "sft"),
        ("weights.responses", "both"),
        ("weights.partition_scope", "batch"),
    ]


@pytest.mark.parametrize(("parts", "enter"), [({"responses": "both"}, (True, False)), ({"responses": "draws"}, (False, True))])
def test_another_temperature_and_batch_size_find_the_draws_and_others_may_enter(workshop, run, scorings, first, parts, enter):
    folder = attempt(
        workshop, scorings, weights={"lambda": 2.0, "plans": 2, **parts}, training={"steps": 1, "batch_size": 2, "seed": 5}
    )
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder).draws
    assert facts is not None
    assert facts.hit
    assert "were made before and are reused" in logs(folder)
    weighed = [(row["response"] < 0, row["weight"] > 0) for rows in read_weights(folder).values() for row in rows]
    assert dict(weighed) == {False: enter[0], True: enter[1]}
    assert len(list(scorings.glob("draws-*"))) == 1


def test_more_draws_keep_those_that_were_made_and_fewer_are_among_them(workshop, run, tmp_path, monkeypatch):
    few, fresh = tmp_path / "few", tmp_path / "fresh"
    bare = {"weights": {"responses": "all"}, "evaluation": {"num_prompts": 0, "share": 0.0}}
    first = attempt(workshop, few, **bare)
    assert run(first) == 0, outcome(first)
    answered = []
    monkeypatch.setattr(
        "worker.stages.drawing.draws.generate",
        lambda model, prompts, *parts: answered.append(len(prompts)) or GENERATE(model, prompts, *parts),
    )
    more = attempt(workshop, few, draws={"num_draws": 5}, **bare)
    assert run(more) == 0, outcome(more)
    facts = scoring_of(more).draws
    assert (facts.hit, sum(answered)) == (False, 2 * facts.num_prompts)
    assert "3 of 5 draws of each prompt were made before and are kept: 2 were added" in logs(more)
    assert len([key for key in facts.made_keys if key.startswith("draws-")]) == 2
    alone = attempt(workshop, fresh, draws={"num_draws": 5}, **bare)
    assert run(alone) == 0, outcome(alone)
    assert scoring_of(alone).draws.num_tokens == facts.num_tokens
    assert scoring_of(alone).draws.logprob_key.split("-")[0] == "mixed_logprob"
    grown, whole = read_weights(more), read_weights(alone)
    for example, rows in whole.items():
        assert [row["num_tokens"] for row in grown[example]] == [row["num_tokens"] for row in rows]
        assert [row["weight"] for row in grown[example]] == pytest.approx([row["weight"] for row in rows], rel=1e-4)
    answered.clear()
    fewer = attempt(workshop, fresh, draws={"num_draws": 3}, **bare)
    assert run(fewer) == 0, outcome(fewer)
    assert scoring_of(fewer).draws.hit
    assert not answered
    assert read_rewards(fewer) == pytest.approx(read_rewards(first), rel=1e-4, abs=1e-5)  # others stood beside them


def test_killed_in_the_middle_of_the_draws_it_goes_on_without_a_double_or_a_lost_one(workshop, run, tmp_path, monkeypatch):
    monkeypatch.setattr("worker.stages.drawing.draws.prompts_per_part", lambda *_: 4)
    undisturbed = attempt(workshop, tmp_path / "whole", weights={"responses": "all"})
    assert run(undisturbed) == 0
    folder = attempt(workshop, tmp_path, weights={"responses": "all"})

    def kill(point: str) -> None:
        if point == "artifact.written" and len(list(tmp_path.glob("draws-*.partial/part-*"))) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    listen(kill)
    try:
        process = fork_runner(folder)
    finally:
        listen(None)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    answered = []
    monkeypatch.setattr(
        "worker.stages.drawing.draws.generate",
        lambda model, prompts, *parts: answered.append(len(prompts)) or GENERATE(model, prompts, *parts),
    )
    after = workshop.next_attempt(folder)
    assert run(after) == 0, outcome(after)
    facts = scoring_of(after).draws
    assert sum(answered) == 3 * (facts.num_prompts - 8)
    for kind, file in (("draws", "draws.safetensors"), ("draw_rewards", "rewards.safetensors")):
        (whole,), (broken,) = (list(place.glob(f"{kind}-*/{file}")) for place in (tmp_path / "whole", tmp_path))
        assert whole.parent.name == broken.parent.name
        want, have = load_file(whole), load_file(broken)
        assert all(have[name].equal(want[name]) for name in want)
    assert read_weights(after) == read_weights(undisturbed)


def test_the_preview_of_a_scoring_with_draws_shows_what_the_run_weighs(workshop, run, scorings, first):
    folder = attempt(workshop, scorings, kind="scoring")
    assert run(folder) == 0, read_events(folder)[-1]
    facts = scoring_of(folder)
    drawn = DrawnScores(**{name: getattr(facts.draws, name) for name in DrawnScores.model_fields})
    job = PreviewJob(
        scorings_dir=str(scorings), index_key=facts.index_key, logprob_key=facts.logprob.key, reward_key=facts.reward.key,
        reward_source="model", batch_size=4, dataset_path=str(workshop.dataset(workshop.examples())), drawn=drawn,
        request={"presets": ["draws", "reward_weighted"], "lambda": [0.5], "overrides": {}},
    )  # fmt: skip
    result = preview(job)
    cell, other = result.cells
    assert "foreign_data" in [finding.name for finding in result.findings]
    assert (0 < cell.partition_error <= 1, cell.draws_needed >= 2, other.partition_error) == (True, True, None)
    assert cell.metrics["weight/mean"] == pytest.approx(1.0, abs=0.2)
    assert 0 < cell.prompt_ess_share <= 1
    both = attempt(workshop, scorings, weights={"responses": "both"})
    assert run(both) == 0
    weights = [row["weight"] for rows in read_weights(both).values() for row in rows if row["response"] >= 0]
    heaviest = [one.weight for one in cell.heaviest]
    assert heaviest == pytest.approx(sorted(weights, reverse=True)[: len(heaviest)], rel=1e-4)
    all_of_them = preview(
        job.model_copy(update={"request": {"presets": ["draws"], "lambda": [0.5], "overrides": {"responses": "all"}}})
    )
    assert sum(all_of_them.cells[0].histogram) == facts.num_responses + 3 * facts.num_examples
