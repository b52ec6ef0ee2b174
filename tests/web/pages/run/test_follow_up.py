"""Data of another policy: one click fine-tunes on them, one more goes on from what that has left."""

from concurrent.futures import ThreadPoolExecutor

from app.domain.events import Change, OutcomeReached
from app.domain.findings import raise_finding
from app.domain.run import Outcome
from app.services import attempts
from app.store import journal
from app.store.runs import lock_run
from tests.services.test_models import make_model

RUNS = "/api/v1/runs"
WEIGHTS = {"preset": "within_prompt", "lambda": 0.25}


def finish(studio, run_id):
    """Let the run succeed and leave a model; what waits before it is begun and left."""
    make_model(studio.app.state.files.artifacts_dir(run_id) / "model")
    with studio.database.writing() as session:
        claim = attempts.begin(session, "worker", 60)
        while claim is not None and claim.run_id != run_id:
            claim = attempts.begin(session, "worker", 60)
        assert claim is not None
        attempts.finish(session, run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))


def find(studio, run_id):
    """Raise the finding that asks for it, and take the run out of the way."""
    finding = raise_finding("foreign_data", "They were written by somebody else.")
    finding = finding.model_copy(update={"changes": (Change(field="method", value="sft"),)})
    with studio.database.writing() as session:
        journal.append(session, lock_run(session, run_id), [finding])
    assert studio.client().post(f"{RUNS}/{run_id}/cancel").status_code == 202


def test_two_clicks_lead_from_the_finding_to_a_run_whose_reference_has_learnt_the_data(studio, client):
    run_id = studio.launch(name="Aligned", weights=WEIGHTS, noise={"reward_std": 0.5})
    find(studio, run_id)
    page = client.get(f"/runs/{run_id}").text
    assert f'action="/runs/{run_id}/tune"' in page
    tuned = studio.browser().post(f"/runs/{run_id}/tune").headers["location"].removeprefix("/runs/")
    recipe = client.get(f"{RUNS}/{tuned}").json()["recipe"]
    assert (recipe["method"], recipe["weights"]["responses"], recipe["noise"]["reward_std"]) == ("sft", "both", 0)
    assert recipe["name"] == "Aligned · fine-tuned first"
    early = client.post(f"{RUNS}/{tuned}/follow-up")
    assert (early.status_code, early.json()["detail"]) == (
        409, "Run Aligned · fine-tuned first is queued: its model can be followed up once it has succeeded.",
    )  # fmt: skip
    assert "Train “Aligned” from here" not in client.get(f"/runs/{tuned}").text
    finish(studio, tuned)
    assert client.get(f"{RUNS}/{tuned}").json()["follows_up"]
    assert "Train “Aligned” from here" in client.get(f"/runs/{tuned}").text
    followed = studio.browser().post(f"/runs/{tuned}/follow-up").headers["location"].removeprefix("/runs/")
    after, before = (client.get(f"{RUNS}/{one}").json()["recipe"] for one in (followed, run_id))
    (model,) = (one for one in client.get("/api/v1/models").json()["items"] if one["name"] == "Aligned · fine-tuned first")
    assert model["source"] == "run"
    assert after == {**before, "policy": {**before["policy"], "model": model["id"]}}
    assert client.post(f"{RUNS}/{tuned}/follow-up").json()["id"] == followed
    fresh = client.post(f"{RUNS}/{tuned}/follow-up", headers={"Idempotency-Key": "once more"})
    assert fresh.json()["id"] != followed
    assert client.get(f"{RUNS}/{fresh.json()['id']}").json()["recipe"] == after  # the model was taken once


def test_a_double_click_is_one_run_and_takes_the_model_once(studio, client):
    run_id = studio.launch(name="Aligned twice", weights=WEIGHTS)
    find(studio, run_id)
    browser = studio.browser()

    def click(address):
        with ThreadPoolExecutor(8) as pool:
            asked = pool.map(lambda _: browser.post(address).headers["location"], range(8))
            return {place.removeprefix("/runs/") for place in asked}

    (tuned,) = click(f"/runs/{run_id}/tune")
    finish(studio, tuned)
    (followed,) = click(f"/runs/{tuned}/follow-up")
    models = [one for one in client.get("/api/v1/models").json()["items"] if one["source"] == "run"]
    (model,) = (one["id"] for one in models if one["name"].startswith("Aligned twice"))
    assert client.get(f"{RUNS}/{followed}").json()["recipe"]["policy"]["model"] == model
    kept = {folder.name for folder in studio.app.state.files.model_dir(model).parent.iterdir()}
    assert kept == {one["id"] for one in models}


def test_a_run_without_a_name_is_followed_up_as_well(studio, client):
    run_id = studio.launch(weights=WEIGHTS)
    name = client.get(f"{RUNS}/{run_id}").json()["name"]
    find(studio, run_id)
    tuned = client.post(f"{RUNS}/{run_id}/tune").json()
    assert tuned["name"] == f"{name} · fine-tuned first"
    finish(studio, tuned["id"])
    assert f"Train “{name}” from here" in client.get(f"/runs/{tuned['id']}").text


def test_the_launch_form_fine_tunes_first_for_what_is_typed_in_it(studio, client):
    parts = studio.ingredients()
    typed = {
        "name": "Typed", "method": "var", "dataset": parts["dataset"], "policy.model": parts["policy"]["model"],
        "reward.source": "preference", "weights.preset": "within_prompt", "weights.lambda": "0.25, 1",
        "training.learning_rate": "3e-4",
    }  # fmt: skip
    tuned = studio.browser().post("/runs/new/tune", data=typed).headers["location"].removeprefix("/runs/")
    recipe = client.get(f"{RUNS}/{tuned}").json()["recipe"]
    assert (recipe["name"], recipe["method"], recipe["training"]["learning_rate"]) == ("Typed · fine-tuned first", "sft", 3e-4)
    finish(studio, tuned)
    followed = client.post(f"{RUNS}/{tuned}/follow-up").json()["id"]
    after = client.get(f"{RUNS}/{followed}").json()["recipe"]
    assert (after["name"], after["method"], after["weights"]["lambda"]) == ("Typed", "var", 0.25)
    refused = client.post("/runs/new/tune", data={**typed, "weights.lambda": "-1"})
    assert refused.status_code == 422
    assert "must be greater than 0" in refused.text


def test_what_has_no_reference_or_nothing_that_follows_is_refused_in_a_sentence(studio, client):
    plain = studio.launch(method="sft", weights={})
    refused = client.post(f"{RUNS}/{plain}/tune")
    assert refused.status_code == 409
    assert "trains towards no optimum around a reference" in refused.json()["detail"]
    nothing = client.post(f"{RUNS}/{plain}/follow-up")
    assert nothing.status_code == 409
    assert "No recipe follows run" in nothing.json()["detail"]
