"""Sweeps over REST: launched once, compared, stopped, resumed, extended, deleted."""

import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.domain.events import EvaluationLogged, FinalLogged, FindingRaised, OutcomeReached, SpoolLine, StepLogged
from app.domain.metrics import WEIGHT_EDGES
from app.domain.run import Outcome
from app.domain.sweep import expand, parse_request
from app.services import attempts, recordings
from app.store.tables import Run
from app.web.api import sweeps as api

SWEEPS, RUNS = "/api/v1/sweeps", "/api/v1/runs"
AT = "2026-01-31T12:00:00.000000Z"


@pytest.fixture
def quiet(studio):
    """Nothing waits in the queue."""
    with studio.database.writing() as session:
        session.execute(attempts.update(Run).where(Run.state == "queued").values(state="cancelled"))


def launch(studio, **parts):
    body = {"recipe": studio.ingredients(), **(parts or {"lambda": [0.1, 0.3], "baselines": ["dpo"]})}
    response = studio.client().post(SWEEPS, json=body)
    assert response.status_code == 202, response.text
    return response.json()["id"]


def judge(gain: float) -> FinalLogged:
    """Final figures of a run whose answers are better by this on every prompt, with some noise."""
    chance = random.Random(round(100 * gain))
    rewards = {100 + k: (k % 8, k % 8 + gain + chance.gauss(0, 0.3)) for k in range(24)}
    metrics = {"test/reward_gain": gain, "test/win_rate": 0.75, "test/win_rate_low": 0.5, "test/win_rate_high": 0.9}
    return FinalLogged.model_validate({
        "step": 9, "metrics": {**metrics, "test/length_win_rate": 0.6},
        "prompts": [
            {"example_id": key, "policy_reward": ours, "reference_reward": theirs, "policy_length": 9, "reference_length": 8}
            for key, (theirs, ours) in rewards.items()
        ],
    })  # fmt: skip


def play(
    studio, *evaluations: tuple[int, float, float], test: float | None = None, costs: dict[int, tuple[int, float]] | None = None
) -> str:
    """The next run as a worker leaves it: with these evaluations (step, KL, reward gain), a step and a finding.

    `costs`: tokens and seconds that were spent by a step.
    `test`: how much more reward than the reference it gets on each of 24 test prompts, more or less.
    """
    with studio.database.writing() as session:
        claim = attempts.begin(session, "worker", 60)
        assert claim is not None
        attempts.open_spool(session, claim)
    step = StepLogged(
        step=1, num_steps=9, epoch=0.1, batch=0, histogram=[0] * (len(WEIGHT_EDGES) + 1),
        metrics={"weight/ess_share": 0.4, "weight/spearman_length": -0.1, "tokens_per_second": 900.0},
    )  # fmt: skip
    finding = FindingRaised(name="collapse", severity="warning", title="One takes all", evidence="e", remedy="r")
    spent = [
        step.model_copy(update={"step": number, "metrics": {"cost/tokens": float(tokens), "cost/seconds": seconds}})
        for number, (tokens, seconds) in (costs or {}).items()
    ]
    logged: list[Any] = [
        EvaluationLogged(step=number, metrics={"eval/kl": kl, "eval/reward_gain": gain}) for number, kl, gain in evaluations
    ]
    logged += [] if test is None else [judge(test)]
    lines = [
        SpoolLine(n=n, at=AT, kind=event.model_dump()["kind"], payload=event.model_dump(mode="json", exclude={"kind"}))
        for n, event in enumerate([step, finding, *spent, *logged], 1)
    ]
    with studio.database.writing() as session:
        recordings.record(session, claim.run_id, claim.token, lines)
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    return claim.run_id


def test_a_launched_sweep_says_where_it_is_and_what_it_will_run(studio, client, quiet):
    response = client.post(SWEEPS, json={"name": "Heat", "recipe": studio.ingredients(), "lambda": [0.1, 0.3]})
    assert response.status_code == 202
    sweep = response.json()
    assert (sweep["name"], sweep["state"], sweep["num_variants"], sweep["counts"]) == ("Heat", "queued", 2, {"queued": 2})
    detail = client.get(response.headers["location"]).json()
    assert [(one["label"], one["changes"], one["state"]) for one in detail["variants"]] == [
        ("λ 0.1", {"weights.lambda": 0.1}, "queued"), ("λ 0.3", {"weights.lambda": 0.3}, "queued"),
    ]  # fmt: skip
    assert detail["request"]["lambda"] == [0.1, 0.3]
    assert detail["best"] is None
    run = client.get(f"{RUNS}/{detail['variants'][1]['run_id']}").json()
    assert (run["name"], run["sweep_id"], run["variant"]) == ("Heat · λ 0.3", sweep["id"], 1)
    assert client.get(SWEEPS, params={"limit": 1}).json()["items"][0] == sweep


def test_one_key_launches_one_sweep_however_often_it_is_sent(studio, quiet):
    body, headers = {"recipe": studio.ingredients(), "lambda": [0.7, 0.9]}, {"idempotency-key": "sweep-one"}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: studio.client().post(SWEEPS, json=body, headers=headers), range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    changed = studio.client().post(SWEEPS, json={**body, "lambda": [1]}, headers=headers)
    assert changed.status_code == 422
    assert changed.json()["problems"][0]["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ({"lambda": [0.1, 0]}, "lambda.1", "Must be greater than 0, not 0."),
        ({"fields": {"training.batch_size": [2, 0]}}, "training.batch_size", "batch_size 0: Must be at least 1, not 0."),
        ({"fields": {"dataset": ["data_none", "data_pairs"]}}, "dataset", "There is no data set 'data_none': choose"),
        ({"baselines": ["ppo"]}, "baselines", "There is no baseline 'ppo'"),
        ({"lambda": [1, 2], "colour": "red"}, "colour", "no setting called colour"),
    ],
)
def test_a_fault_is_a_problem_at_its_field(studio, client, parts, field, words):
    num_before = len(client.get(RUNS, params={"limit": 200}).json()["items"])
    response = client.post(SWEEPS, json={"recipe": studio.ingredients(), **parts})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    (problem,) = response.json()["problems"]
    assert problem["field"] == field
    assert words in problem["message"]
    assert problem.get("variant", "").rsplit(" ", 1)[-1] in problem["message"]
    assert len(client.get(RUNS, params={"limit": 200}).json()["items"]) == num_before


def test_a_long_value_is_cut_where_its_variant_is_named(studio, client, quiet):
    asked = {"recipe": studio.ingredients(), "lambda": [0.1, 0.2, 0.3], "fields": {"training.batch_size": [4, "x" * 300_000]}}
    response = client.post(SWEEPS, json=asked)
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["problems"]] == ["training.batch_size"] * 3
    assert "λ 0.1, batch_size xxx" in response.json()["detail"]
    assert len(response.content) < 5_000


def test_the_table_and_the_frontier_compare_the_variants(studio, client, quiet):
    sweep_id = launch(studio)
    first = play(studio, (0, 0.0, 0.0), (5, 0.5, 1.0), (9, 3.0, 0.8))
    play(studio, (0, 0.0, 0.0), (9, 2.0, 2.5))
    detail = client.get(f"{SWEEPS}/{sweep_id}").json()
    assert [one["best"] for one in detail["variants"]] == [False, True, False]
    assert detail["best"] == {"variant": 1, "step": 9, "kl": 2.0, "reward_gain": 2.5, "on_front": True}
    assert [(one["variant"], one["step"], one["on_front"]) for one in detail["frontier"]] == [
        (0, 0, True), (0, 5, True), (0, 9, False), (1, 0, True), (1, 9, True),
    ]  # fmt: skip
    row = detail["variants"][0]
    assert (row["run_id"], row["state"]) == (first, "succeeded")
    assert {key: row["metrics"][key] for key in ("eval/kl", "eval/reward_gain", "weight/ess_share")} == {
        "eval/kl": 3.0, "eval/reward_gain": 0.8, "weight/ess_share": 0.4,
    }  # fmt: skip
    assert row["findings"] == [{"name": "collapse", "severity": "warning", "title": "One takes all"}]
    assert row["seconds"] >= 0
    near = client.get(f"{SWEEPS}/{sweep_id}", params={"kl_budget": 1}).json()
    assert (near["best"], near["kl_budget"]) == (None, 1.0)
    assert (near["earlier"]["variant"], near["earlier"]["step"], near["not_told_apart"]) == (0, 5, [])
    assert detail["earlier"] is None
    assert client.get(f"{SWEEPS}/{sweep_id}", params={"kl_budget": -1}).json()["problems"][0]["field"].endswith("kl_budget")


def test_what_a_gain_has_cost_is_told_at_the_first_evaluation_that_has_it(studio, client, quiet):
    sweep_id = launch(studio, **{"lambda": [0.1, 0.3, 1]})
    play(studio, (0, 0.0, 0.0), (1, 1.0, 0.9), (9, 2.0, 1.2), costs={1: (500, 2.0), 9: (4500, 18.0)})
    play(studio, (0, 0.0, 0.0), (1, 1.0, 0.1), (9, 2.0, 1.0), costs={1: (100, 0.5), 9: (900, 4.5)})
    play(studio, (0, 0.0, 0.0), (9, 2.0, 0.2), costs={9: (700, 3.0)})
    detail = client.get(f"{SWEEPS}/{sweep_id}").json()
    assert detail["target_gain"] == 0.9  # of 1.0, which the second best reaches
    assert detail["costs"] == [
        {"variant": 0, "step": 1, "tokens": 500, "seconds": 2.0}, {"variant": 1, "step": 9, "tokens": 900, "seconds": 4.5},
        {"variant": 2, "step": None, "tokens": None, "seconds": None},
    ]  # fmt: skip
    cheap = client.get(f"{SWEEPS}/{sweep_id}", params={"target_gain": 0.1}).json()["costs"]
    assert [(one["variant"], one["step"]) for one in cheap] == [(1, 1), (0, 1), (2, 9)]
    page = client.get(f"/sweeps/{sweep_id}", params={"gain": "0,95"}).text
    assert "gains +0.950 reward" in page
    ends = re.findall(r'href="/models/new\?run=(\w+)">Register', page)
    on_the_way = re.findall(r'href="/runs/new\?clone=(\w+)&amp;keep.step=1&amp;keep.model=last', page)
    assert (len(ends), len(on_the_way)) == (1, 1)  # of the front: the first variant at its end, and after its first step
    assert "not reached" in page
    assert client.get(f"/sweeps/{sweep_id}", params={"gain": "much"}).status_code == 422


def test_the_best_is_chosen_on_validation_and_told_apart_on_the_test_prompts(studio, client, quiet):
    sweep_id = launch(studio, **{"lambda": [0.1, 0.3, 1, 3]})
    play(studio, (0, 0.0, 0.0), (9, 2.0, 2.5), test=1.0)
    play(studio, (0, 0.0, 0.0), (9, 2.0, 2.4), test=1.03)
    play(studio, (0, 0.0, 0.0), (9, 2.0, 2.3), test=0.3)
    play(studio, (0, 0.0, 0.0), (9, 9.0, 2.0))
    detail = client.get(f"{SWEEPS}/{sweep_id}").json()
    assert (detail["best"]["variant"], detail["chosen_gain"], detail["test_gain"]) == (0, 2.5, 1.0)
    assert detail["not_told_apart"] == [1]
    alike, apart = detail["rivals"]
    assert (alike["variants"], alike["told_apart"], alike["num_prompts"]) == ([1], False, 24)
    assert alike["needed_prompts"] > 24
    assert alike["gain"]["low"] < 0 < alike["gain"]["high"]
    assert (apart["variants"], apart["told_apart"]) == ([2], True)
    assert apart["gain"]["low"] > 0.5
    page = " ".join(client.get(f"/sweeps/{sweep_id}").text.split())
    assert "On the test prompts, which chose nothing, its reward is +1" in page
    assert "Being chosen made it look 1.50 better." in page
    assert "Not told apart from <strong>λ 0.3</strong>" in page
    assert "Told apart from <strong>λ 1</strong>" in page
    assert "60 % at equal length" in page
    assert client.get(f"{SWEEPS}/{sweep_id}", params={"kl_budget": 1}).json()["rivals"] == []


def test_a_sweep_over_seeds_is_averaged_and_its_spread_shown(studio, client, quiet):
    sweep_id = launch(studio, **{"fields": {"weights.lambda": [0.3, 1], "training.seed": [0, 1, 2]}})
    for gain, test in ((1.0, 0.9), (3.0, 1.1), (2.0, 1.0), (3.5, 0.1), (0.0, 0.3), (0.5, 0.2)):
        play(studio, (0, 0.0, 0.0), (9, 2.0, gain), test=test)
    detail = client.get(f"{SWEEPS}/{sweep_id}").json()
    assert [(group["label"], group["variants"]) for group in detail["seeds"]] == [("λ 0.3", [0, 1, 2]), ("λ 1", [3, 4, 5])]
    assert detail["seeds"][0]["gain"] == {"mean": 2.0, "deviation": 1.0, "num": 3}
    assert detail["seeds"][0]["test_gain"] == {"mean": pytest.approx(1.0), "deviation": pytest.approx(0.1), "num": 3}
    assert (detail["best"]["variant"], detail["chosen_gain"]) == (2, 2.0)  # not the luckiest seed, which is of the other λ
    assert detail["test_gain"] == pytest.approx(1.0)
    (rival,) = detail["rivals"]
    assert (rival["variants"], rival["told_apart"]) == ([3, 4, 5], True)
    page = " ".join(client.get(f"/sweeps/{sweep_id}").text.split())
    assert "<strong>λ 0.3</strong> gains most on average over 3 seeds: reward +2" in page
    assert "± 0.100 from seed to seed" in page
    assert "Means over seeds" in page


def test_a_mean_over_seeds_counts_those_that_have_a_figure(studio, client, quiet):
    sweep_id = launch(studio, **{"fields": {"training.seed": [0, 1, 2]}})
    play(studio, (0, 0.0, 0.0), (9, 2.0, 1.0), test=0.9)
    assert "gains most with one of its 3 seeds so far: reward +1" in " ".join(client.get(f"/sweeps/{sweep_id}").text.split())
    play(studio, (0, 0.0, 0.0), (9, 2.0, 3.0), test=1.1)
    assert client.get(f"{SWEEPS}/{sweep_id}").json()["seeds"][0]["gain"]["num"] == 2
    page = " ".join(client.get(f"/sweeps/{sweep_id}").text.split())
    assert "gains most on average over 2 of its 3 seeds: reward +2" in page
    assert '<td class="number">2 of 3</td>' in page


def test_a_sweep_is_stopped_resumed_extended_and_deleted(studio, client, quiet):
    sweep_id = launch(studio)
    path = f"{SWEEPS}/{sweep_id}"
    play(studio)
    assert client.delete(path).status_code == 409
    stopped = client.post(f"{path}/stop").json()
    assert (stopped["state"], stopped["counts"]) == ("stopped", {"succeeded": 1, "cancelled": 2})
    assert client.post(f"{path}/stop").status_code == 409
    gone = client.get(path).json()["variants"][2]["run_id"]
    assert client.delete(f"{RUNS}/{gone}").status_code == 204
    row = client.get(path).json()
    assert (row["variants"][2]["state"], row["variants"][2]["run_id"], row["num_deleted"]) == ("deleted", None, 1)
    resumed = client.post(f"{path}/resume").json()
    assert (resumed["state"], resumed["counts"]) == ("running", {"succeeded": 1, "queued": 2})
    assert client.post(f"{path}/resume").status_code == 409
    more = client.post(f"{path}/variants", json={"lambda": [0.3, 3], "baselines": ["sft_all"]})
    assert (more.status_code, more.json()["num_variants"]) == (202, 5)
    again = client.post(f"{path}/variants", json={"lambda": [3]})
    assert (again.status_code, again.json()["detail"][:22]) == (409, "Each of these variants")
    client.post(f"{path}/stop")
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_another_users_private_sweep_is_not_there(studio, client, eve):
    sweep_id = launch(studio)
    assert client.patch(f"{SWEEPS}/{sweep_id}", json={"private": True}).status_code == 200
    assert eve.get(f"{SWEEPS}/{sweep_id}").status_code == 404
    assert eve.delete(f"{SWEEPS}/{sweep_id}").status_code == 404
    for verb in ("stop", "resume"):
        assert eve.post(f"{SWEEPS}/{sweep_id}/{verb}").status_code == 404
    assert eve.post(f"{SWEEPS}/{sweep_id}/variants", json={"lambda": [9]}).status_code == 404
    assert sweep_id not in [sweep["id"] for sweep in eve.get(SWEEPS, params={"limit": 100}).json()["items"]]


@pytest.mark.parametrize("example", api.EXAMPLES.values(), ids=api.EXAMPLES)
def test_the_sweeps_of_the_document_are_sweeps(example):
    assert len(expand(parse_request(example["value"]))) >= 4
