"""The launch form filled from presets, templates and imported recipes; what is in it kept as a template or given out."""

import json
import re
import time
from html import unescape
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from app.domain.errors import InvalidInput
from app.web.pages.launch.beginning import read_text, tell_taken, told_faults
from tests.web.conftest import Studio
from tests.web.conftest import studio as studio

FORM = {
    "dataset": "data_pairs", "policy.model": "model_policy", "weights.preset": "within_prompt", "weights.lambda": "0.25",
    "training.batch_size": "16", "name": "Today",
}  # fmt: skip
KEPT = {"weights": {"preset": "reward_weighted", "lambda": 0.7}, "training": {"batch_size": 4}}


@pytest.fixture
def browser(studio: Studio) -> TestClient:
    studio.ingredients()
    return studio.browser()


def value_of(page: str, name: str) -> str:
    """What a text input of the form holds."""
    found = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', page)
    assert found, name
    return unescape(found[1])


def chosen_of(page: str, name: str) -> str:
    """What is chosen in a select of the form."""
    (part,) = re.findall(rf'<select[^>]* name="{re.escape(name)}".*?</select>', page, re.DOTALL)
    found = re.search(r'<option value="([^"]*)" selected', part)
    return found[1] if found else ""


def keep(studio: Studio, recipe: Any = None, name: str = "Kept one") -> str:
    body = {"name": name, "recipe": KEPT if recipe is None else recipe}
    answer = studio.client().post("/api/v1/recipe-templates", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_a_template_sets_every_field_and_leaves_what_it_does_not_name(studio: Studio, browser: TestClient) -> None:
    kept = keep(studio)
    answer = browser.post("/runs/new/start", data={**FORM, "tokens.max_prompt": "99", "start.from": f"template:{kept}"})
    assert answer.status_code == 303
    page = browser.get(answer.headers["location"]).text
    assert (value_of(page, "weights.lambda"), value_of(page, "training.batch_size")) == ("0.7", "4")
    assert value_of(page, "tokens.max_prompt") == "512"  # not what was typed: the template's
    assert (value_of(page, "name"), chosen_of(page, "dataset"), chosen_of(page, "policy.model")) == (
        "Today", "data_pairs", "model_policy",
    )  # fmt: skip
    assert '<a href="#training-batch_size">Batch size B: 4</a>' in page or "Batch size" in page.split('id="changed-title"')[1]
    assert f'<option value="template:{kept}" selected>Kept one</option>' in page
    assert "start-note" not in page


def test_a_template_s_own_data_set_is_taken_and_one_that_is_not_here_is_said(studio: Studio, browser: TestClient) -> None:
    recipe = {**KEPT, "dataset": "data_gone", "policy": {"model": "model_policy"}}
    page = browser.get(f"/runs/new?template={keep(studio, recipe)}").text
    assert "Data set: data_gone is not here, or is private to another. Choose one." in unescape(page)
    assert (chosen_of(page, "dataset"), chosen_of(page, "policy.model")) == ("", "model_policy")


def test_a_preset_and_a_new_form_begin_anew(browser: TestClient) -> None:
    page = browser.get(browser.post("/runs/new/start", data={**FORM, "start.from": "preset:paper"}).headers["location"]).text
    assert '<input type="radio" name="weights.preset" value="paper" checked>' in page
    assert (value_of(page, "weights.lambda"), value_of(page, "training.batch_size")) == ("", "8")
    assert chosen_of(page, "dataset") == "data_pairs"
    page = browser.get(browser.post("/runs/new/start", data={**FORM, "start.from": ""}).headers["location"]).text
    assert value_of(page, "weights.lambda") == ""


@pytest.mark.parametrize("as_text", [json.dumps, yaml.safe_dump])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_recipe_is_imported_from_a_file_or_pasted_text(browser: TestClient, as_text: Any, is_file: bool) -> None:
    text = as_text(KEPT)
    files = {"import.file": ("mine.json", text) if is_file else ("", b"")}
    page = browser.post("/runs/new/import", data={**FORM, "import.text": "" if is_file else text}, files=files)
    assert page.status_code == 200
    assert (value_of(page.text, "weights.lambda"), value_of(page.text, "training.batch_size")) == ("0.7", "4")
    assert (value_of(page.text, "name"), chosen_of(page.text, "dataset")) == ("Today", "data_pairs")
    assert "3 settings are taken from it" in page.text
    assert " data-filled>" in page.text


FAULTS = {
    '{"weights": {"lambda": 1}, "num_train_epochs": 3}': "num_train_epochs is no setting of a recipe; here it is training.epochs",
    '{"weights": {"lambda": 1}, "training": {"batch_sise": 3}}': "training.batch_sise is no setting of a recipe.",
    '{"weights": {"lambda": 1}, "training": {"batch_size": 0}}': "training.batch_size: must be at least 1, not 0.",
    '{"weights": {"lambda": 1, "lambda": 2}}': "The text says lambda twice",
    "weights: {lambda: 1}\nweights: {lambda: 2}": "The text says weights twice",
    "name: a\nseed: !!int ''": "line 2: this can't be read as int",
    "seed: !!bool maybe": "line 1: this can't be read as bool",
    "seed: !!float ''": "line 1: this can't be read as float",
    "name: !!timestamp soon": "line 1: this can't be read as timestamp",
    "name: 2026-13-45": "line 1: this can't be read as timestamp",
    "weights: !!map [1]": "line 1: this can't be read as map",
    "weights: !!set [1]": "line 1: this can't be read as set",
    "a: &a [1]\nb: *a": "The text has references",
    "weights: [1": "neither JSON nor YAML, line",
    '{"weights": ': "The text is no JSON: Expecting value in line 1.",
    "- 1": "The text is no recipe: settings by name",
    "": "There is no recipe: choose a file, or paste its text.",
    f'{{"seed": {"9" * 5000}}}': "holds a number of too many digits",
    f'{{"weights": {"[" * 100_000}': "nested too deeply",
}


@pytest.mark.parametrize("text", FAULTS)
def test_what_is_wrong_with_a_recipe_is_said_and_the_form_stays(browser: TestClient, text: str) -> None:
    page = browser.post("/runs/new/import", data={**FORM, "import.text": text}, files={"import.file": ("", b"")})
    assert page.status_code == 422
    assert "This recipe can't be imported" in unescape(page.text)
    assert FAULTS[text] in unescape(page.text)
    assert value_of(page.text, "weights.lambda") == "0.25"
    assert '<details class="fold apart" open id="import">' in page.text


@pytest.mark.parametrize(("content", "sentence"), [(b"\xff\xfe", "is no UTF-8 text"), (b"x" * (2**18 + 1), "is larger than")])
def test_a_file_that_is_no_recipe_is_refused_by_its_name(browser: TestClient, content: bytes, sentence: str) -> None:
    page = browser.post("/runs/new/import", data=FORM, files={"import.file": ("odd.json", content)})
    assert page.status_code == 422
    assert f"odd.json {sentence}" in page.text


def test_a_whole_recipe_of_an_older_version_is_taken_and_what_it_lacks_is_named(browser: TestClient) -> None:
    text = browser.post("/runs/new/export", data=FORM).text
    recipe = json.loads(text)
    assert tell_taken(recipe)[0].startswith("All ")
    del recipe["evaluation"]["split"]
    del recipe["reward"]["dtype"]
    (told,) = tell_taken(recipe)
    assert re.search(r"2 that it doesn't say are as in a new form: .+, .+\.$", told)


def test_the_form_s_recipe_goes_out_as_a_file_and_comes_back_the_same(studio: Studio, browser: TestClient) -> None:
    answer = browser.post("/runs/new/export", data=FORM)
    assert answer.headers["content-disposition"] == 'attachment; filename="Today.json"'
    recipe = answer.json()
    assert (recipe["dataset"], recipe["weights"]["lambda"], recipe["training"]["batch_size"]) == ("data_pairs", 0.25, 16)
    page = browser.post("/runs/new/import", data={}, files={"import.file": ("Today.json", answer.content)}).text
    assert {name: value_of(page, name) for name in ("weights.lambda", "training.batch_size", "name")} == {
        "weights.lambda": "0.25", "training.batch_size": "16", "name": "Today",
    }  # fmt: skip
    assert "All " in page
    launched = studio.client().post("/api/v1/runs", json=recipe)
    assert launched.status_code == 202


def test_the_form_is_kept_as_a_template_under_a_name(studio: Studio, browser: TestClient) -> None:
    page = browser.post("/runs/new/keep", data={**FORM, "template.name": "Quarter", "private": "yes"}).text
    found = re.search(r"Kept as a template: <a href=\"/recipe-templates/(template_\w+)\">Quarter</a>", page)
    assert found
    assert value_of(page, "weights.lambda") == "0.25"  # the form goes on as it was
    kept = studio.client().get(f"/api/v1/recipe-templates/{found[1]}").json()
    assert (kept["private"], kept["recipe"]["weights"]["lambda"], kept["recipe"]["name"]) == (True, 0.25, "")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"template.name": ""}, "Give the template a name."),
        ({"weights.lambda": "1, 2, 3"}, "A recipe says one temperature, and these are 3"),
        ({"baseline.dpo": "yes"}, "A recipe says one run, without baselines"),
        ({"experiment": "temperature"}, "A recipe says one run, and an experiment is several"),
        ({"training.batch_size": "0"}, "must be at least 1, not 0"),
    ],
)
def test_what_can_not_be_kept_is_said_above_the_form(browser: TestClient, changes: dict[str, str], sentence: str) -> None:
    page = browser.post("/runs/new/keep", data={**FORM, "template.name": "Kept", **changes})
    assert page.status_code == 422
    assert "This can't be kept yet" in unescape(page.text)
    assert sentence in page.text


def test_lists_and_pages_of_templates_show_what_they_set(studio: Studio, browser: TestClient) -> None:
    kept = keep(studio, name="Small batches <b>")
    listed = browser.get("/recipe-templates").text
    assert "Small batches &lt;b&gt;" in listed
    assert "reward weighted, λ 0.7" in listed
    page = browser.get(f"/recipe-templates/{kept}").text
    assert "Batch size B: 4" in page or "Batch size: 4" in page
    assert "reward_weighted" in page
    file = browser.get(f"/recipe-templates/{kept}/recipe.json")
    assert file.headers["content-disposition"] == 'attachment; filename="Small-batches-b.json"'
    assert file.json()["weights"]["lambda"] == 0.7
    assert browser.post(f"/recipe-templates/{kept}/delete").headers["location"] == "/recipe-templates"
    assert browser.get(f"/recipe-templates/{kept}").status_code == 404


def test_a_run_s_recipe_is_kept_from_its_page(studio: Studio, browser: TestClient) -> None:
    run_id = studio.launch(name="Went well")
    assert f'action="/runs/{run_id}/keep"' in browser.get(f"/runs/{run_id}?tab=files").text
    answer = browser.post(f"/runs/{run_id}/keep")
    page = browser.get(answer.headers["location"]).text
    assert "<h1>Went well</h1>" in page
    assert "data_pairs" in page


def test_the_form_s_other_addresses_lead_to_the_form(browser: TestClient) -> None:
    assert [browser.get(f"/runs/new/{verb}").headers["location"] for verb in ("import", "keep", "export", "start")] == [
        "/runs/new"
    ] * 4


def test_what_a_long_text_says_twice_is_found_at_once() -> None:
    names = [f"k{number:05d}" for number in range(30_000)]
    began = time.thread_time()
    with pytest.raises(InvalidInput, match="says k29999 twice"):
        read_text(json.dumps(dict.fromkeys(names, 0))[:-1] + ', "k29999": 0}')
    assert time.thread_time() - began < 5  # of this thread alone; half a minute where each name is looked for among all


def test_faults_name_the_field_as_the_text_has_it() -> None:
    assert told_faults([{"field": "dataset", "message": "Is missing."}, {"field": "", "message": "Whole."}]) == [
        "dataset: is missing.", "Whole.",
    ]  # fmt: skip
    with pytest.raises(InvalidInput):
        read_text("\t")
