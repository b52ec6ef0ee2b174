"""What leads a run's page: the verdict, its figures, two samples; why there is none yet; the end of a failed run's log."""

import re

import pytest

from app.domain.events import EvaluationLogged, FinalLogged, FindingRaised, ModelKept, OutcomeReached, PromptJudged, SampleDrawn
from app.domain.run import Outcome
from tests.web.test_runs import SUCCEEDED, record, sample, step

FINAL = {
    "test/num_prompts": 40.0, "test/reward_gain": 1.0, "test/reward_gain_low": 0.6, "test/reward_gain_high": 1.4,
    "test/win_rate": 0.8, "test/win_rate_low": 0.65, "test/win_rate_high": 0.9, "test/kl": 2.0,
}  # fmt: skip
FINDING = FindingRaised(
    name="length_driven", severity="warning", title="Weights follow length", evidence="ρ is −0.6.", remedy="Use another preset."
)


def result(client, run_id: str) -> str:
    """Return the text of the part, its white space joined."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(f"/runs/{run_id}/result").text))


def test_the_verdict_leads_with_three_figures_and_what_may_qualify_it(studio, client):
    run_id = record(studio, [step(1), FINDING, FinalLogged(step=9, metrics=FINAL)], SUCCEEDED)
    text = result(client, run_id)
    assert "Better than the reference +1.00 reward (95 % interval +0.600 to +1.40) on 40 test prompts" in text
    assert "1 finding below may qualify it: “Weights follow length”." in text
    assert "Reward gain +1.00" in text
    assert "95 % interval 65.0 % to 90.0 %" in text
    page = client.get(f"/runs/{run_id}").text
    assert re.search(r'VAR:\s+<a href="/models/model_policy">', page)
    assert page.index('id="verdict"') < page.index('id="findings"') < page.index('data-chart="leading_histogram"')


def test_prompts_that_could_be_exchanged_hold_the_verdict_back(studio, client):
    rewards = [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
    prompts = [
        PromptJudged(example_id=at, policy_reward=one, reference_reward=other, policy_length=3, reference_length=3)
        for at, (one, other) in enumerate(rewards)
    ]
    text = result(client, record(studio, [FinalLogged(step=9, metrics=FINAL, prompts=prompts)], SUCCEEDED))
    assert "Not told apart from the reference" in text


def test_on_the_way_it_is_said_to_be_of_the_validation_prompts(studio, client):
    metrics = {"eval/num_prompts": 16.0, "eval/reward_gain": -1.0, "eval/reward_gain_low": -2.0, "eval/reward_gain_high": -0.5}
    text = result(client, record(studio, [step(1), EvaluationLogged(step=1, metrics=metrics)]))
    assert "So far: worse than the reference −1.00 reward" in text
    assert "Of the validation set at step 1. The test set is read once, at the end." in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "No result yet Waits for a worker. The first evaluation says how the policy compares."),
        ({"evaluation": {"share": 0}}, "Nothing is held out (the held-out share is 0), so nothing is evaluated."),
    ],
)
def test_without_a_figure_it_says_why(studio, client, changes, told):
    assert told in result(client, studio.launch(**changes))


def test_a_failed_run_shows_the_end_of_its_log_and_what_to_do(studio, client):
    outcome = OutcomeReached(outcome=Outcome.FAILED, reason="Out of memory.", remedy="Lower it.", retry=False)
    run_id = record(studio, [], outcome)
    assert "The run failed It ended before its first step" in result(client, run_id)
    page = client.get(f"/runs/{run_id}").text
    assert "the end of the log" in page
    assert "What to do: Lower it." in page


def judged(index: int, gain: float) -> SampleDrawn:
    return sample(1, index).model_copy(update={"policy": f"answer {index}", "policy_reward": gain, "reference_reward": 0.0})


def test_the_two_samples_are_the_largest_gain_and_the_largest_loss(studio, client):
    run_id = record(studio, [step(1), *(judged(index, gain) for index, gain in enumerate((0.5, -2.0, 3.0, 0.1)))])
    text = result(client, run_id)
    assert "answer 2" in text
    assert "answer 1" in text
    assert text.index("answer 2") < text.index("answer 1")
    assert "answer 0" not in text
    unjudged = result(client, record(studio, [step(1), sample(1, 0), sample(1, 1), sample(1, 2)]))
    assert unjudged.count("Hello!") == 2


def test_a_tab_is_chosen_by_the_address_and_an_unknown_one_is_the_first(studio, client):
    run_id = studio.launch()
    for asked, opened in (("log", "log"), ("nonsense", "overview"), ("", "overview")):
        page = client.get(f"/runs/{run_id}", params={"tab": asked}).text
        assert re.findall(r'<div class="tab-panel stack-l" id="panel-(\w+)">', page) == [opened]
    pairs = {"method": "reward_model", "reward": {}}
    judge = client.get(f"/runs/{studio.launch(**pairs)}").text
    assert "panel-weights" not in judge
    assert "panel-samples" not in judge


def test_a_finished_run_is_compared_from_its_head(studio, client):
    run_id = record(studio, [step(1)], SUCCEEDED)
    page = client.get(f"/runs/{run_id}").text
    assert f'href="/comparisons/new?runs={run_id}"' in page
    assert client.get("/comparisons/new", params={"runs": run_id}).status_code == 200
    assert "/comparisons/new?runs=" not in client.get(f"/runs/{studio.launch()}").text


def test_the_verdict_says_which_model_was_kept_and_why_training_ended(studio, client):
    text = "The model is that of step 4, the best on validation. Training stopped after step 8 of 20, as its KL was too large."
    kept = ModelKept(step=4, last_step=8, num_steps=20, text=text, stopped="its KL was too large")
    run_id = record(studio, [step(1), FinalLogged(step=4, metrics=FINAL), kept], SUCCEEDED)
    assert text in result(client, run_id)
    assert text in client.get(f"/runs/{run_id}").text.partition('id="log-list"')[2]
    assert client.get(f"/api/v1/runs/{run_id}").json()["kept"] == kept.model_dump(exclude={"kind"})
