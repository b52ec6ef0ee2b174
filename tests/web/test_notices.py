"""What is wrong with a form, in the form's own words: the label that stands above the field, and what to do."""

import re
from html import unescape

import pytest

from tests.answered import QUESTIONS


@pytest.fixture
def browser(studio):
    studio.ingredients()
    return studio.browser()


@pytest.fixture
def prompt_set_path(browser):
    return str(browser.post("/prompt-sets/new", data={"text": QUESTIONS}).headers["location"])


def notice(answer):
    """Return the sentences of a refused form."""
    found = re.search(r'<(?:div|p) class="notice bad" role="alert">(.*?)</(?:div|p)>\s*(?:<form|<div|$)', answer.text, re.DOTALL)
    assert answer.status_code == 422, answer.status_code
    assert found, answer.text
    assert "<code>" not in found[1]
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", found[1])))


def test_a_question_that_can_not_be_asked_names_the_labels_of_its_form(browser, prompt_set_path):
    form = {"model": "run:run_x", "n": "0", "temperature": "99", "top_p": "0", "pattern": "(", "step": "late"}
    answer = browser.post(f"{prompt_set_path}/ask", data=form)
    said = notice(answer)
    assert said.startswith(" The input is not valid Checkpoint must be a whole number, not 'late'. (4 more fields need a look.)")
    assert "Temperature must be at most 10, not '99'." in said
    assert "Answers per prompt must be at least 1, not '0'." in said
    assert "Pattern: This is no regular expression" in said
    for label in ("Answers per prompt", "Temperature", "Top p", "Checkpoint", "Pattern"):
        assert f">{label}</label>" in answer.text
        assert label in said


def test_a_prompt_set_that_can_not_be_made_names_the_labels_of_its_form(browser):
    form = {"source": "run:run_x", "num_prompts": "0", "seed": "-3", "part": "test"}
    assert "Number of prompts must be at least 1, not '0'. (1 more field needs a look.)" in notice(
        browser.post("/prompt-sets/new", data=form)
    )


def test_a_comparison_that_can_not_be_made_names_the_labels_of_its_form(browser):
    form = {"contestant": ["run:a", "run:b"], "temperature": "99", "num_draws": "x", "top_p": "2"}
    answer = browser.post("/comparisons/new", data=form, headers={"hx-request": "true"})
    page = browser.get("/comparisons/new?models=model_policy").text
    for label in ("Temperature must be", "Answers per prompt must be", "Top p must be"):
        assert label in answer.text
    assert "<code>" not in answer.text
    assert (
        all(f">{label}</label>" in page for label in ("Temperature", "Answers per prompt", "Top p"))
        or "Nothing to compare" in page
    )


def test_the_playgrounds_dials_are_called_as_they_are_labelled(browser):
    form = {"model": "model_policy", "prompt": "Hi", "max_new_tokens": "0"}
    assert "Longest answer must be at least 1, not '0'." in notice(browser.post("/playground", data=form))


@pytest.mark.parametrize("noun", ["answers/answers_x", "comparisons/comparison_x"])
@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"pattern": "("}, "This is no regular expression: missing ), unterminated subpattern at position 0."),
        ({"judge": "nobody"}, "Judges must have a kind of 'reward', 'llm', 'length', 'exact', 'pattern', not 'nobody'."),
        ({}, "Choose at least one judge."),
    ],
)
def test_judges_that_can_not_be_asked_are_sentences(browser, noun, form, sentence):
    answer = browser.post(f"/{noun}/judges", data=form, headers={"hx-request": "true"})
    assert (answer.status_code, sentence in unescape(answer.text)) == (422, True), answer.text


def test_rest_keeps_the_paths(client):
    refused = client.post("/api/v1/answers", json={"prompt_set": "x", "model": {"source": "no"}, "sampling": {"temperature": 99}})
    problems = {one["field"]: one["message"] for one in refused.json()["problems"]}
    assert problems == {
        "model": "Must have a source of 'model', 'run', 'endpoint', not 'no'.",
        "sampling.temperature": "Must be at most 10, not 99.",
    }
    assert refused.json()["detail"] == (
        "model must have a source of 'model', 'run', 'endpoint', not 'no'. (1 more field needs a look.)"
    )
