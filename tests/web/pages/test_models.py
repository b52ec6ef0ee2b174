"""Models as pages: what one is, where it comes from, what it is used in; taken along, and registered under another name."""

import io
import re
import zipfile

import pytest

from app.domain.events import CheckpointSaved, LogWritten
from app.store import journal
from app.store.runs import ALL_CHECKPOINTS_REMOVED
from app.store.tables import Run
from tests.services.test_models import make_model


@pytest.fixture
def browser(studio):
    return studio.browser()


@pytest.fixture(scope="module")
def trained(studio):
    """The id of a run that has trained the policy on, and of the model that was taken from it."""
    run_id = studio.launch(name="Aligns <it>")
    with studio.database.writing() as session:
        session.get(Run, run_id).state = "succeeded"
    make_model(studio.app.state.files.artifacts_dir(run_id) / "model")
    asked = {"kind": "policy", "source": "run", "run_id": run_id, "name": "Aligned"}
    return run_id, studio.client().post("/api/v1/models", json=asked).json()["id"]


def test_a_model_says_what_it_is_and_stands_in_its_line(browser, trained):
    run_id, model_id = trained
    page = browser.get(f"/models/{model_id}").text
    for text in ("LlamaForCausalLM", "<dd>44</dd>", "<dd>64</dd>", "none", "plain turns are used"):
        assert text in page, text
    line = page[page.index('aria-label="Where it comes from"') : page.index("This model")]
    assert re.findall(r'href="([^"]+)"', line) == ["/models/model_policy", f"/runs/{run_id}"]
    assert "Aligns &lt;it&gt;" in line
    assert str(trained[1]) in browser.get("/models").text
    assert f'<a href="/runs/{run_id}">Aligns &lt;it&gt;</a>' in browser.get("/models").text
    assert "artifacts" not in browser.get("/models").text  # no path of the disk


def test_the_checkpoint_that_a_model_is_of_is_a_stop_in_its_line(browser, trained, studio):
    run_id, model_id = trained
    events = [CheckpointSaved(step=step, name=f"step-{step:06}", size_bytes=1) for step in (20, 40)]
    with studio.database.writing() as session:
        run = session.get(Run, run_id)
        run.step = run.num_steps = 40
        journal.append(session, run, events)
    page = browser.get(f"/models/{model_id}").text
    line = page[page.index('aria-label="Where it comes from"') : page.index("This model")]
    assert re.findall(r'href="([^"]+)"', line) == [
        "/models/model_policy", f"/runs/{run_id}", f"/playground?models={run_id}@40",
    ]  # fmt: skip
    removed = LogWritten(level="info", text=f"{ALL_CHECKPOINTS_REMOVED} (step-000040)")
    with studio.database.writing() as session:
        journal.append(session, session.get(Run, run_id), [removed])
    page = browser.get(f"/models/{model_id}").text
    assert "step 40" in page
    assert f"{run_id}@40" not in page


def test_a_model_says_what_it_is_used_in(browser, trained, client, studio):
    uses = browser.get("/models/model_policy").text
    assert f'<a href="/runs/{trained[0]}">Aligns &lt;it&gt;</a>' in uses[uses.index("Used in") :]
    scoring = client.post("/api/v1/scorings", json=studio.ingredients()).json()["id"]
    assert f'href="/scorings/{scoring}"' in browser.get("/models/model_policy").text
    prompts = client.post("/api/v1/prompt-sets", json={"text": "Who answers?"}).json()["id"]
    asked = {"prompt_set": prompts, "model": {"source": "model", "model": "model_policy"}}
    answers = client.post("/api/v1/answers", json=asked).json()["id"]
    told = browser.get("/models/model_policy").text
    assert f'<a href="/answers/{answers}">' in told
    assert "as the one that answers" in told
    assert "Nothing uses it yet." in browser.get(f"/models/{trained[1]}").text


def test_that_more_uses_a_model_is_said(browser, trained, monkeypatch, studio):
    studio.launch()
    assert "Of each kind" not in browser.get("/models/model_policy").text
    monkeypatch.setattr("app.store.overview.model_uses.FEW", 1)
    page = browser.get("/models/model_policy").text
    assert "Of each kind the newest" in page
    assert page[page.index("Used in") :].count('href="/runs/run_') == 1


def test_a_model_is_downloaded_whole_by_all_who_may_see_it(client, eve, trained):
    answer = client.get(f"/api/v1/models/{trained[1]}/model.zip")
    assert answer.headers["content-disposition"] == f'attachment; filename="{trained[1]}.zip"'
    names = set(zipfile.ZipFile(io.BytesIO(answer.content)).namelist())
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    client.patch(f"/api/v1/models/{trained[1]}", json={"private": True})
    assert eve.get(f"/api/v1/models/{trained[1]}/model.zip").status_code == 404
    assert eve.post(f"/api/v1/models/{trained[1]}/copy", json={"name": "x"}).status_code == 404
    client.patch(f"/api/v1/models/{trained[1]}", json={"private": False})
    assert eve.get(f"/api/v1/models/{trained[1]}/model.zip").status_code == 200
    hub = client.get("/api/v1/models/model_policy/model.zip")
    assert (hub.status_code, "on the hub" in hub.json()["detail"]) == (404, True)


def test_only_files_of_models_below_allowed_folders_are_downloaded(studio, client):
    folder = make_model(studio.models / "linked")
    secret = studio.models.parent / "secret.json"
    secret.write_text("{}")
    (folder / "stolen.json").symlink_to(secret)
    (folder / "notes.key").write_text("private")
    model = client.post("/api/v1/models", json={"kind": "policy", "source": "folder", "path": str(folder)}).json()
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/api/v1/models/{model['id']}/model.zip").content))
    assert {"stolen.json", "notes.key"} & set(archive.namelist()) == set()
    assert "model.safetensors" in archive.namelist()


def test_a_copy_under_another_name_outlives_its_original(client, browser, trained):
    answer = browser.post(f"/models/{trained[1]}/copy", data={"name": "Kept apart"})
    copied = answer.headers["location"].rsplit("/", 1)[-1]
    assert (answer.status_code, copied == trained[1]) == (303, False)
    shown = client.get(f"/api/v1/models/{copied}").json()
    assert (shown["name"], shown["facts"]["run_id"]) == ("Kept apart", trained[0])
    over_rest = client.post(f"/api/v1/models/{copied}/copy", json={"name": "Third"})
    assert (over_rest.status_code, over_rest.headers["location"]) == (201, f"/api/v1/models/{over_rest.json()['id']}")
    client.delete(f"/api/v1/models/{copied}")
    assert client.get(f"/api/v1/models/{over_rest.json()['id']}/check").json()["ok"] is True
    assert client.post("/api/v1/models/model_policy/copy", json={"name": "Hub twin"}).json()["path"] == "small/policy"
    assert browser.post(f"/models/{trained[1]}/copy", data={"name": " "}).status_code == 422


def test_the_form_stands_behind_a_button_and_is_filled_for_a_run(browser, trained):
    assert 'href="/models/new"' in browser.get("/models").text
    moved = browser.get(f"/models?run={trained[0]}")
    assert (moved.status_code, moved.headers["location"]) == (308, f"/models/new?run={trained[0]}")
    page = browser.get(moved.headers["location"]).text
    assert f'<option value="{trained[0]}" selected>' in page
    refused = browser.post("/models", data={"kind": "policy", "source": "folder", "path": "/etc"})
    assert refused.status_code == 422
    assert "allowed folder" in refused.text
    taken = browser.post("/models", data={"kind": "policy", "source": "hub", "name": "small/other"})
    assert browser.get(taken.headers["location"]).status_code == 200


def test_a_model_of_a_deleted_run_says_so(browser, client, trained):
    client.delete(f"/api/v1/runs/{trained[0]}")
    assert "a run that is deleted" in browser.get(f"/models/{trained[1]}").text
    assert "a run that is deleted" in browser.get("/models").text
