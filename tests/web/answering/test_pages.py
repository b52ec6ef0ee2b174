"""The pages of prompt sets and answers: made, asked, judged, looked at by their scores, turned into a data set."""

import json
from itertools import count

import pytest

from app.store.files.files import Files
from app.store.tables import Model
from tests.answered import QUESTIONS, answer_all

SEEDS = count(1000)


@pytest.fixture
def browser(studio):
    return studio.browser()


def follow(browser, answer):
    """The page that a form leads to."""
    assert answer.status_code == 303, answer.text
    return browser.get(answer.headers["location"])


@pytest.fixture
def prompt_set_path(browser):
    answer = browser.post("/prompt-sets/new", data={"text": QUESTIONS, "name": "Questions of a page"})
    return str(answer.headers["location"])


@pytest.fixture
def answers_path(studio, browser, prompt_set_path):
    policy = studio.ingredients()["policy"]["model"]
    form = {"model": f"model:{policy}", "n": "2", "seed": str(next(SEEDS)), "judge": ["length"], "pattern": "yes"}
    answer = browser.post(f"{prompt_set_path}/ask", data=form)
    path = str(answer.headers["location"])
    answer_all(studio.database, Files(studio.settings.root), path.split("/")[-1])
    return path


def test_a_prompt_set_is_made_of_pasted_text_and_of_a_file(browser, prompt_set_path):
    page = browser.get(prompt_set_path)
    assert "Questions of a page" in page.text
    assert "Why is the sky blue?" in page.text
    lines = "".join(json.dumps({"turns": [f"Turn {k}?", "And then?"]}) + "\n" for k in range(25))
    uploaded = browser.post("/prompt-sets/file", files={"file": ("turns.jsonl", lines)})
    page = follow(browser, uploaded)
    assert "25 with several turns" in page.text
    more = browser.get(uploaded.headers["location"] + "?start=20").text
    assert "Turn 24?" in more
    assert "Turn 3?" not in more
    assert "turns.jsonl" in browser.get("/prompt-sets").text


def test_what_is_wrong_stands_above_the_form_with_what_was_typed(browser, prompt_set_path):
    page = browser.post("/prompt-sets/new", data={"text": '{"id": 1}', "name": "Kept name"})
    assert page.status_code == 422
    assert "Entry 1 has no prompt" in page.text
    assert "Kept name" in page.text
    asked = browser.post(f"{prompt_set_path}/ask", data={"n": "3", "temperature": "0", "model": "model:x"})
    assert (asked.status_code, "Greedy decoding gives the same answer 3 times" in asked.text) == (422, True)
    none = browser.post(f"{prompt_set_path}/ask", data={"n": "1"})
    assert "Choose the model that is to answer." in none.text


def test_a_set_is_made_of_a_data_set(studio, browser):
    dataset = studio.upload()
    form = {"source": f"dataset:{dataset['id']}", "num_prompts": "5", "seed": "1"}
    assert "5 prompts" in follow(browser, browser.post("/prompt-sets/new", data=form)).text
    assert f'value="dataset:{dataset["id"]}" selected' in browser.get(f"/prompt-sets/new?dataset={dataset['id']}").text


def test_answers_are_looked_at_by_their_scores(browser, answers_path):
    page = browser.get(answers_path).text
    assert "sha of Small policy"[:12] in page or "sha of" in page
    assert page.index("Why is the sky blue?") < page.index("Where is the map?")
    best = browser.get(f"{answers_path}?sort=best").text
    assert best.index("Where is the map?") < best.index("Why is the sky blue?")
    found = browser.get(f"{answers_path}?search=MAP").text
    assert "Where is the map?" in found
    assert "Why is the sky blue?" not in found
    assert "Questions of a page" in browser.get("/answers").text


def test_a_runs_page_leads_to_its_answers(studio, browser, answers_path):
    rest = studio.client()
    run_id = rest.get(f"/api/v1/answers/{answers_path.split('/')[-1]}").json()["run_id"]
    assert browser.get(f"/runs/{run_id}").headers["location"] == answers_path


def test_more_judges_are_asked_and_cancelled(browser, answers_path):
    moving = follow(browser, browser.post(f"{answers_path}/judges", data={"pattern": "rain"}))
    assert "Waits for a worker" in moving.text
    cancelled = follow(browser, browser.post(f"{answers_path}/cancel"))
    assert "ready" in cancelled.text
    refused = browser.post(f"{answers_path}/judges", data={})
    assert "Choose at least one judge." in refused.text


def test_a_data_set_is_made_in_three_clicks(browser, answers_path):
    page = browser.get(answers_path).text
    judge = page.split('id="farm-judge"')[1].split('value="')[1].split('"')[0]
    figures = browser.get(f"{answers_path}/farm?judge={judge}&shape=pairs&margin=0").text
    assert "a model would learn to be long" in figures
    assert "Margin must be a number" in browser.get(f"{answers_path}/farm?judge={judge}&margin=x").text
    made = follow(browser, browser.post(f"{answers_path}/dataset", data={"judge": judge, "shape": "best_worst", "margin": "0"}))
    assert "Best against worst" in made.text
    assert f'Made from <a href="{answers_path}">' in made.text


def test_outputs_are_uploaded_and_what_did_not_match_is_said(browser, prompt_set_path):
    listed = json.dumps([{"instruction": "What is rain?", "output": "Water from a page.", "generator": "elsewhere"}])
    data = {"prompt_set": prompt_set_path.split("/")[-1]}
    page = follow(browser, browser.post("/answers/file", files={"file": ("outputs.json", listed)}, data=data))
    assert "3 prompts have no output" in page.text
    assert "Water from a page." in page.text


def test_answers_and_their_prompt_set_are_deleted(browser, answers_path, prompt_set_path):
    blocked = browser.post(f"{prompt_set_path}/delete")
    assert blocked.status_code == 409
    assert browser.post(f"{answers_path}/delete").headers["location"] == "/answers"
    assert browser.get(answers_path).status_code == 404


def test_a_run_that_answers_is_not_cloned_in_the_form(studio, browser, answers_path):
    run_id = studio.client().get(f"/api/v1/answers/{answers_path.split('/')[-1]}").json()["run_id"]
    page = browser.get(f"/runs/new?clone={run_id}")
    assert (page.status_code, "follows no recipe that could be cloned" in page.text) == (409, True)


def test_a_model_without_a_chat_template_answers_several_turns_in_plain_turns(studio, browser):
    policy = studio.ingredients()["policy"]["model"]
    with studio.database.writing() as session:
        model = session.get_one(Model, policy)
        facts, model.facts = model.facts, {**model.facts, "has_chat_template": False}
    lines = json.dumps({"turns": ["Where is it?", "And then?"]})
    path = str(browser.post("/prompt-sets/file", files={"file": ("two.jsonl", lines)}).headers["location"])
    form = {"model": f"model:{policy}", "seed": str(next(SEEDS))}
    refused = browser.post(f"{path}/ask", data=form)
    assert "take another model or prompt set, or the prompt format “plain”." in refused.text
    assert browser.post(f"{path}/ask", data={**form, "prompt_format": "plain"}).status_code == 303
    with studio.database.writing() as session:
        session.get_one(Model, policy).facts = facts
