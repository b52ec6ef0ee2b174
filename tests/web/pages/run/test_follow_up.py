"""Data of another policy: one click fine-tunes on them, one more goes on from what that has left."""

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
    """Let the run succeed and leave a model."""
    make_model(studio.app.state.files.artifacts_dir(run_id) / "model")
    with studio.database.writing() as session:
        claim = attempts.begin(session, "worker", 60)
        assert claim is not None
        assert claim.run_id == run_id
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
    (model,) = (one for one in client.get("/api/v1/models").json()["items"] if one["source"] == "run")
    assert model["name"] == "Aligned · fine-tuned first"
    assert after == {**before, "policy": {**before["policy"], "model": model["id"]}}
    again = client.post(f"{RUNS}/{tuned}/follow-up")
    assert again.status_code == 202
    assert client.get(f"{RUNS}/{again.json()['id']}").json()["recipe"] == after  # the model was taken once


def test_what_has_no_reference_or_nothing_that_follows_is_refused_in_a_sentence(studio, client):
    plain = studio.launch(method="sft", weights={})
    refused = client.post(f"{RUNS}/{plain}/tune")
    assert refused.status_code == 409
    assert "trains towards no optimum around a reference" in refused.json()["detail"]
    nothing = client.post(f"{RUNS}/{plain}/follow-up")
    assert nothing.status_code == 409
    assert "No recipe follows run" in nothing.json()["detail"]
