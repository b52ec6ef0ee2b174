"""The summary beside the launch form: a line for each thing that is known, honest where it isn't; what was changed as chips."""

import re

import pytest

from app.domain.events import StepLogged
from app.domain.recipe import parse_recipe
from app.store.metrics import list_speeds
from app.web.pages.launch.summary import count_steps, list_chips
from tests.web.test_experiments import judged_recipe
from tests.web.test_runs import SUCCEEDED, record, step

VALUES = {"dataset": "data_pairs", "policy.model": "model_policy", "reward.source": "preference"}


def summary(client, **values: str) -> str:
    """Return the text of the part, its white space joined."""
    answer = client.post("/runs/new/summary", data={**VALUES, **values})
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


def test_it_says_what_is_not_known_yet(studio, client):
    studio.ingredients()
    text = summary(client)
    assert "Data Pairs: 9 examples" in text
    assert "Time no measurement yet: no finished run trains this policy" in text
    assert "Reward check known once the pairs are scored" in text
    assert "Effective sample size 0.5 of each batch" in summary(client, **{"weights.target_ess": "0.5"})
    assert "Temperature λ 0.1, 0.3" in summary(client, **{"weights.lambda": "0.1, 0.3"})
    assert "Temperature" not in summary(client, method="sft")
    assert "choose a data set" in summary(client, dataset="")


def timed(number: int) -> StepLogged:
    return step(number).model_copy(update={"metrics": {"step_seconds": 2.0, "tokens_per_second": 10.0}})


def test_the_time_comes_from_a_finished_run_of_the_same_kind_scaled_to_the_batch(studio, client):
    with studio.database.reading() as session:
        before = len(list_speeds(session, studio_owner(studio), "model_policy"))
    run_id = record(studio, [timed(1), timed(2)], SUCCEEDED)
    with studio.database.reading() as session:
        speeds = list_speeds(session, studio_owner(studio), "model_policy")
        assert len(speeds) == before + 1
        assert (speeds[0].run_id, speeds[0].seconds_per_step) == (run_id, 2.0)
        assert list_speeds(session, "somebody", "model_policy") == []
    size = speeds[0].recipe["training"]["batch_size"]
    text = summary(client, **{"training.batch_size": str(size * 2), "training.steps": "90", "training.epochs": ""})
    assert "about 6 min 0 s: 90 steps at 4.0 s, as measured" in text
    assert "no measurement yet" in summary(client, **{"policy.adaptation": "lora"})


def studio_owner(studio) -> str:
    return str(studio.client().get("/api/v1/account").json()["id"])


def test_it_speaks_of_all_runs_where_there_are_several(studio, client):
    judged_recipe(studio)
    record(studio, [timed(1), timed(2)], SUCCEEDED)
    with studio.database.reading() as session:
        size = list_speeds(session, studio_owner(studio), "model_policy")[0].recipe["training"]["batch_size"]
    steps = {"training.batch_size": str(size), "training.steps": "90", "training.epochs": ""}
    grid = summary(client, **steps, **{"weights.lambda": "0.1, 0.3", "baseline.dpo": "yes"})
    assert "Runs 3, in one sweep" in grid
    assert "Time about 6 min 0 s for 2 of them, one after the other: 180 steps at 2.0 s, as measured" in grid
    asked = {"reward.source": "model", "reward.model": "model_reward", "experiment.steps": "30", "experiment.seeds": "2"}
    experiment = summary(client, **steps, **asked, experiment="temperature", **{"weights.lambda": "0.4"})
    assert "Runs 10: 5 settings with 2 seeds each" in experiment
    assert "Time about 10 min 0 s for all, one after the other: 300 steps at 2.0 s, as measured" in experiment
    assert "Temperature λ 0.1, 0.2, 0.4, 0.8, 1.6" in experiment
    heart = summary(client, **steps, **asked, experiment="overfit", **{"weights.lambda": "0.4"})
    assert "Time about 1 min 0 s: 30 steps at 2.0 s, as measured" in heart
    assert "Runs" not in heart


@pytest.mark.parametrize(("name", "words"), [("temperature", "Launch the runs"), ("overfit", "Launch the run")])
def test_the_button_says_whether_an_experiment_is_several_runs(studio, client, name, words):
    page = client.get(f"/runs/new?experiment={name}").text
    assert ("data-runs" in page) is (words == "Launch the runs")
    assert "<h1>New experiment</h1>" in page


@pytest.mark.parametrize(
    ("training", "steps"), [({"steps": 7}, 7), ({"epochs": 2, "batch_size": 8}, 225), ({"epochs": 0.5, "batch_size": 8}, 57)]
)
def test_steps_are_counted_of_what_is_not_held_out(training, steps):
    recipe = parse_recipe({
        "dataset": "d", "policy": {"model": "m"}, "weights": {"lambda": 1}, "training": training, "evaluation": {"share": 0.1},
    })  # fmt: skip
    assert count_steps(recipe, 1000) == steps


def test_chips_are_what_differs_from_a_new_form_and_what_the_method_reads():
    values = {"training.batch_size": "16", "weights.preset": "paper", "dpo.beta": "0.3", "name": "Mine", "training.epochs": "1"}
    assert [(chip.id, chip.value) for chip in list_chips({"method": "var", **values})] == [
        ("weights-preset", "Paper"), ("training-batch_size", "16"),
    ]  # fmt: skip
    assert [chip.path for chip in list_chips({"method": "dpo", **values})] == ["dpo.beta", "training.batch_size"]


def test_a_chip_is_taken_back_without_scripts(studio, client):
    studio.ingredients()
    page = client.post(
        "/runs/new/preview", data={**VALUES, "training.batch_size": "16", "take.reset": "training.batch_size"}
    ).text
    assert "Reset Batch size" not in page
    assert "Batch size B" in page


def test_the_form_has_five_folds_and_says_when_each_preset_is_used(client):
    page = client.get("/runs/new").text
    assert page.count('<details class="fold"') == 5
    assert page.index('id="summary"') < page.index('id="launch-button"')
    for words in ("To begin with", "To repeat the paper", "When some prompts", "As the control"):
        assert words in page
