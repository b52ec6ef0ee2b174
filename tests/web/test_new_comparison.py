"""From models to a comparison with one button: answers that are not there yet are queued, those that are there are taken."""

import re

import pytest
from sqlalchemy import select

from app.domain.events import CheckpointSaved
from app.store import journal
from app.store.database import now
from app.store.tables import Answers, Model, Run
from tests.compared import Planted, plant_answers, plant_prompts
from tests.web.test_comparisons import owner_of


@pytest.fixture
def policies(studio):
    """Two policies and a reward model, which no files stand behind."""
    studio.ingredients()
    with studio.database.writing() as session:
        for kind, name in (("policy", "other"), ("reward", "judge")):
            if session.get(Model, f"model_{name}") is None:
                session.add(
                    Model(
                        id=f"model_{name}", owner_id=owner_of(studio), name=f"Small {name}", kind=kind, source="hub",
                        path=f"small/{name}", revision="main", facts={}, created_at=now(session),
                    )
                )  # fmt: skip
    return ["model:model_policy", "model:model_other"]


def test_one_button_queues_the_answers_and_leads_to_the_comparison(studio, policies):
    browser = studio.browser()
    page = browser.get("/comparisons/new").text
    assert all(f'value="{value}"' in page for value in policies)
    assert 'value="model_judge" checked' in page
    assert "is ticked so far" not in page
    assert "Only “Small other” is ticked so far" in browser.get("/comparisons/new?models=model_other").text
    body = {"contestant": policies, "prompts": "text", "text": "Where is it?\nWhen does it come?", "judge": ["model_judge"]}
    made = browser.post("/comparisons/new", data=body)
    assert made.status_code == 303
    shown = browser.get(made.headers["location"]).text
    assert "Answers are being made" in shown
    assert shown.count('<a href="/runs/run_') == 2
    with studio.database.reading() as session:
        runs = list(session.scalars(select(Run).where(Run.kind == "answers")))
        assert len(runs) >= 2
        num_answers = len(list(session.scalars(select(Answers))))
    again = browser.post("/comparisons/new", data=body)
    assert again.headers["location"] != made.headers["location"]
    with studio.database.reading() as session:
        assert len(list(session.scalars(select(Answers)))) == num_answers  # nothing is asked twice


def test_what_the_address_names_is_ticked(studio, client, policies):
    run_id = client.post("/api/v1/runs", json=studio.ingredients()).json()["id"]
    page = studio.browser().get("/comparisons/new", params={"runs": run_id, "models": "model_other"}).text
    ticked = set(re.findall(r'value="([^"]+)" checked', page))
    assert {f"run:{run_id}", "model:model_other"} <= ticked
    assert "model:model_policy" not in ticked
    assert f'<option value="run:{run_id}" selected>' in page
    assert studio.browser().get("/comparisons/new", params={"runs": "run_none"}).status_code == 404


def test_a_runs_kept_checkpoints_are_offered_and_compared(studio, client, policies):
    run_id = client.post("/api/v1/runs", json=studio.ingredients()).json()["id"]
    with studio.database.writing() as session:
        saved = [CheckpointSaved(step=step, name=f"step-{step:06}", size_bytes=1) for step in (20, 40)]
        journal.append(session, session.get_one(Run, run_id), saved)
    browser = studio.browser()
    page = browser.get("/comparisons/new", params={"runs": run_id}).text
    steps = [f"run:{run_id}@{step}" for step in (40, 20)]
    assert all(f'value="{value}"' in page for value in steps)
    body = {"contestant": steps, "prompts": "text", "text": "Where is it?"}
    made = browser.post("/comparisons/new", data=body)
    assert made.status_code == 303, made.text
    shown = browser.get(made.headers["location"]).text
    assert "at step 40" in shown
    assert "at step 20" in shown
    refused = browser.post("/comparisons/new", data={**body, "prompts": "run:" + "x" * 300})
    assert refused.status_code in (404, 422)
    refused = browser.post("/comparisons/new", data={**body, "contestant": [steps[0], f"run:{run_id}@x"]})
    assert refused.status_code == 422


def test_answers_that_are_there_are_compared_at_once(studio, policies):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 6)
        models = (Planted("A"), Planted("B"))
        ids = [plant_answers(session, studio.app.state.files, prompts, model, judges=("reward",)).id for model in models]
    browser = studio.browser()
    page = browser.get("/comparisons/new", params={"answers": ",".join(ids)}).text
    assert all(f'value="answers:{one}" checked' in page for one in ids)
    assert f'<option value="set:{prompts.id}" selected>' in page
    made = browser.post(
        "/comparisons/new", data={"contestant": [f"answers:{one}" for one in ids], "prompts": f"set:{prompts.id}"}
    )
    assert "What it says" in browser.get(made.headers["location"]).text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contestant": ["model:model_policy"]}, "Tick two models or more"),
        ({"contestant": ["model:model_policy", "model:model_judge"]}, "but a policy, which answers, is needed here"),
        ({"text": " "}, "There is no prompt in it"),
        ({"num_draws": "8", "temperature": "0"}, "Greedy decoding gives the same answer 8 times"),
        ({"judge": ["model_other"]}, "a reward model, which judges, is needed here"),
    ],
)
def test_what_can_not_be_is_said_in_a_sentence_and_nothing_is_queued(studio, policies, changes, words):
    browser = studio.browser()
    with studio.database.reading() as session:
        before = len(list(session.scalars(select(Run))))
    body = {"contestant": policies, "prompts": "text", "text": "Unheard of?", **changes}
    refused = browser.post("/comparisons/new", data=body, headers={"hx-request": "true"})
    assert refused.status_code == 422
    assert words in refused.text
    with studio.database.reading() as session:
        assert len(list(session.scalars(select(Run)))) == before
