"""Experiments over REST and on their pages: launched, waited for, judged."""

import re

import pytest

from app.domain.events import ChatMessage, ModelKept, OutcomeReached, PromptRecited, RecitalHeld
from app.domain.experiments.catalogue import EXPERIMENTS
from app.domain.run import Outcome
from app.services import attempts
from app.store import journal
from app.store.accounts import get_user
from app.store.database import now
from app.store.metrics import write_metrics
from app.store.runs import lock_run
from app.store.tables import Model, Run
from tests.web.test_sweeps import play

SWEEPS, EXPERIMENTS_PATH = "/api/v1/sweeps", "/api/v1/experiments"


@pytest.fixture
def quiet(studio):
    """Nothing waits in the queue."""
    with studio.database.writing() as session:
        session.execute(attempts.update(Run).where(Run.state == "queued").values(state="cancelled"))


def judged_recipe(studio) -> dict:
    """A recipe whose answers are scored by a reward model."""
    recipe = studio.ingredients()
    with studio.database.writing() as session:
        if session.get(Model, "model_reward") is None:
            session.add(
                Model(
                    id="model_reward", owner_id=get_user(session, "admin").id, name="Judge", kind="reward", source="hub",
                    path="small/reward", revision=None, facts={}, created_at=now(session),
                )
            )  # fmt: skip
    return {**recipe, "reward": {"source": "model", "model": "model_reward"}}


def launch(studio, name: str, **asked) -> str:
    response = studio.client().post(f"{EXPERIMENTS_PATH}/{name}", json={"recipe": judged_recipe(studio), **asked})
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"{SWEEPS}/{response.json()['id']}"
    return response.json()["id"]


def test_experiments_say_what_they_ask_and_what_is_expected(studio):
    listed = studio.client().get(EXPERIMENTS_PATH).json()
    assert [one["name"] for one in listed] == list(EXPERIMENTS)
    assert all(one["question"].endswith("?") and one["expected"].endswith(".") for one in listed)


def test_an_experiment_is_a_sweep_that_is_judged_when_all_its_runs_have_ended(studio, quiet):
    sweep_id = launch(studio, "online", steps=40, seeds=1)
    waiting = studio.client().get(f"{SWEEPS}/{sweep_id}").json()
    assert (waiting["experiment"], waiting["outcome"]["state"]) == ("online", "waiting")
    assert [one["label"] for one in waiting["outcome"]["settings"]] == ["the data's own", "fresh every 5 steps"]
    play(studio, (9, 1.0, 0.2), test=0.2)
    play(studio, (9, 2.0, 1.2), test=1.2)
    outcome = studio.client().get(f"{SWEEPS}/{sweep_id}").json()["outcome"]
    assert (outcome["state"], outcome["over"]) == ("expected", "prompts")
    assert [one["gain"]["value"] for one in outcome["settings"]] == [0.2, 1.2]
    assert outcome["sentences"][0].startswith("fresh every 5 steps against the data's own: +")
    page = studio.browser().get(f"/sweeps/{sweep_id}").text
    assert "as expected" in page
    assert outcome["sentences"][0].split(": ")[1][:6] in page
    listed = studio.browser().get("/experiments").text
    assert f'href="/sweeps/{sweep_id}"' in listed


def test_seeds_are_one_setting_whose_interval_is_over_them(studio, quiet):
    sweep_id = launch(studio, "online", steps=40, seeds=2)
    for gain in (0.2, 0.4, 1.2, 1.0):
        play(studio, (9, 1.0, gain), test=gain)
    outcome = studio.client().get(f"{SWEEPS}/{sweep_id}").json()["outcome"]
    assert (outcome["state"], outcome["over"], len(outcome["settings"])) == ("expected", "seeds", 2)
    gain = outcome["settings"][0]["gain"]
    assert gain["value"] == pytest.approx(0.3)
    assert gain["high"] - gain["low"] == pytest.approx(2 * 12.7062 * 0.1, rel=1e-4)  # Student's t with one degree of freedom


def test_variants_are_called_by_what_the_experiment_compares(studio):
    """A learning rate alone doesn't say of which method it is."""
    detail = studio.client().get(f"{SWEEPS}/{launch(studio, 'methods', steps=20, seeds=2)}").json()
    labels = [one["label"] for one in detail["variants"]]
    assert labels[:4] == [f"VAR at {rate}, seed {seed}" for rate in ("3.33e-06", "1e-05") for seed in (0, 1)]
    assert [one["label"] for one in detail["seeds"]][-1].startswith("DPO at ")
    page = studio.browser().get(f"/sweeps/{detail['id']}").text
    assert "VAR at 3.33e-06, VAR at 1e-05, VAR at 3e-05, SFT on chosen at 3.33e-06 …" in page
    assert "learning_rate 1e-05" not in page.partition("what was asked for")[0]


def test_an_experiment_whose_run_has_failed_waits_for_nothing(studio, quiet):
    sweep_id = launch(studio, "online", steps=40, seeds=1)
    play(studio, (9, 1.0, 0.2), test=0.2)
    with studio.database.writing() as session:
        claim = attempts.begin(session, "worker", 60)
        attempts.finish(
            session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.FAILED, reason="It broke.", retry=False)
        )
    outcome = studio.client().get(f"{SWEEPS}/{sweep_id}").json()["outcome"]
    assert (outcome["state"], outcome["sentences"]) == (
        "undecided", ["Left out, as no run of it has the figures: fresh every 5 steps."],
    )  # fmt: skip
    page = studio.browser().get(f"/sweeps/{sweep_id}").text
    assert "not decided" in page
    assert "when all have ended" not in page


def test_a_gain_stands_beside_the_distance_of_the_model_that_was_kept(studio, quiet):
    """The newest evaluation is of another model than the one that answered the test prompts."""
    recipe = {**judged_recipe(studio), "keep": {"model": "best"}}
    asked = studio.client().post(f"{EXPERIMENTS_PATH}/online", json={"recipe": recipe, "steps": 40, "seeds": 1})
    sweep_id = asked.json()["id"]
    for gain in (0.2, 1.2):
        run_id = play(studio, (5, 1.0, gain), (9, 7.0, 0.1), test=gain)
        with studio.database.writing() as session:
            journal.append(
                session, lock_run(session, run_id), [ModelKept(step=5, last_step=9, num_steps=9, text="Step 5 is best.")]
            )
    settings = studio.client().get(f"{SWEEPS}/{sweep_id}").json()["outcome"]["settings"]
    assert [one["kl"]["value"] for one in settings] == [1.0, 1.0]


def test_the_launch_form_sets_an_experiment_up_and_launches_it(studio):
    judged_recipe(studio)
    form = studio.browser().get("/runs/new?experiment=temperature").text
    assert "Experiment: Reward against λ" in form
    asked = {
        "experiment": "temperature", "experiment.steps": "20", "experiment.seeds": "1", "method": "var", "dataset": "data_pairs",
        "policy.model": "model_policy", "reward.source": "model", "reward.model": "model_reward", "weights.preset": "paper",
        "weights.target_ess": "0.5",
    }  # fmt: skip
    launched = studio.browser().post("/runs/new", data=asked)
    assert launched.status_code == 303, re.findall(r"<li>.*?</li>", launched.text, re.DOTALL)
    sweep = studio.client().get(f"/api/v1{launched.headers['location']}").json()
    assert [one["label"] for one in sweep["variants"]] == ["λ 0.1", "λ 0.2", "λ 0.4", "λ 0.8", "λ 1.6"]
    again = studio.browser().post("/runs/new", data={**asked, "experiment.seeds": "99"})
    assert again.status_code == 422
    assert 'href="#experiment-seeds"' in again.text
    assert 'value="99"' in again.text


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/v1/experiments/luck", {"recipe": {}}, 404, "There is no experiment 'luck'"),
        ("/api/v1/experiments/online", {"recipe": {}}, 422, "policy"),
        ("/api/v1/experiments/online", {"recipe": {}, "steps": 1}, 422, "steps"),
        ("/api/v1/sweeps", {"recipe": "mine", "lambda": [1, 2], "experiment": "luck"}, 422, "There is no experiment 'luck'"),
    ],
)
def test_what_is_no_experiment_is_refused_in_a_sentence(studio, path, body, status, words):
    if body["recipe"] == "mine":
        body = {**body, "recipe": judged_recipe(studio)}
    response = studio.client().post(path, json=body)
    assert response.status_code == status
    assert words in response.text


def test_variants_that_are_no_settings_of_the_experiment_are_left_aside(studio, quiet):
    sweep_id = launch(studio, "temperature", steps=20, seeds=1)
    assert studio.client().post(f"{SWEEPS}/{sweep_id}/variants", json={"baselines": ["dpo"]}).status_code == 202
    sweep = studio.client().get(f"{SWEEPS}/{sweep_id}").json()
    assert len(sweep["variants"]) == 6
    assert [one["label"] for one in sweep["outcome"]["settings"]] == ["λ 0.1", "λ 0.2", "λ 0.4", "λ 0.8", "λ 1.6"]


def test_a_batch_that_was_learnt_by_heart_shows_the_answers_to_its_own_prompts(studio):
    sweep_id = launch(studio, "overfit", steps=10, seeds=1)
    (variant,) = studio.client().get(f"{SWEEPS}/{sweep_id}").json()["variants"]
    said = [
        PromptRecited(
            example_id=k, prompt=[ChatMessage(role="user", content=f"Ask {k}")], learned="Yes & no", answer=answer, weight=0.5 + k
        )
        for k, answer in enumerate(("Yes & no", "Yes and yes"))
    ]
    with studio.database.writing() as session:
        run = lock_run(session, variant["run_id"])
        assert run.recipe["evaluation"]["recite"] == run.recipe["max_examples"]
        journal.append(session, run, [RecitalHeld(step=10, prompts=said)])
        write_metrics(session, run.id, {("loss", step): loss for step, loss in ((1, 2.0), (2, None), (3, 0.5), (4, 0.01))})
    page = studio.browser().get(f"/sweeps/{sweep_id}").text
    assert 'points="0.00,1.00 66.67,29.50 100.00,38.81"' in page
    assert "on a scale from 0 to 2.00" in page
    assert "Its answers to its own prompts" in page
    assert page.count("as it learned") == 1
    assert re.findall(
        r'<td data-label="Weight" class="number">([\d.]+)</td>', page[page.index("Its answers to its own prompts") :]
    ) == [
        "0.500",
        "1.50",
    ]
    assert "It learned:</strong> Yes &amp; no" in page
    for nothing in ("Best so far", "Reward against distance", "What a gain costs", "frontier.js"):  # nothing is rewarded here
        assert nothing not in page
    live = studio.browser().get(f"/sweeps/{sweep_id}/live").text
    assert [f'id="{part}"' in live for part in ("counts", "result-rows", "best", "front-rows")] == [True, True, False, False]
    log = studio.browser().get(f"/runs/{variant['run_id']}?tab=log").text
    assert "answers 1 word for word as it learned" in log
