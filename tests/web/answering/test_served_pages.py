"""Endpoints on the pages of prompt sets and answers: chosen to answer and to judge, and told of their liking for a place."""

import pytest

from app.domain.answering.judge import LlmJudge
from app.domain.answering.verdicts import PairVerdict, describe_pairs
from app.store.answering.answers import list_judgements
from app.store.files.files import Files
from tests.answered import QUESTIONS, answer_all

API = "/api/v1"


@pytest.fixture(scope="module")
def endpoint(studio) -> str:
    body = {"name": "Lab", "address": "https://api.example.org/v1", "model": "small"}
    return str(studio.client().post(f"{API}/endpoints", json=body).json()["id"])


@pytest.fixture(scope="module")
def paths(studio, endpoint) -> list[str]:
    """The pages of two seeds' answers to one prompt set."""
    browser = studio.browser()
    place = browser.post("/prompt-sets/new", data={"text": QUESTIONS, "name": "Asked there"}).headers["location"]
    assert f'value="endpoint:{endpoint}"' in browser.get(place).text
    made = []
    for seed in ("1", "2"):
        form = {"model": f"endpoint:{endpoint}", "seed": seed, "judge": [f"llm:{endpoint}"] if seed == "1" else []}
        made.append(str(browser.post(f"{place}/ask", data=form).headers["location"]))
        answer_all(studio.database, Files(studio.settings.root), made[-1].split("/")[-1])
    return made


def test_an_endpoint_answers_and_grades_from_the_form(studio, paths, endpoint):
    shown = studio.client().get(f"{API}{paths[0]}").json()
    assert shown["model"] == {"source": "endpoint", "endpoint": endpoint}
    assert [one["judge"] for one in shown["judgements"]] == [LlmJudge(endpoint=endpoint).model_dump()]
    assert "Grade by Lab" in studio.browser().get(paths[0]).text


def test_a_language_model_is_asked_to_compare_and_its_bias_is_shown(studio, paths, endpoint):
    browser, answers_id = studio.browser(), paths[1].split("/")[-1]
    form = {"llm": endpoint, "against": paths[0].split("/")[-1]}
    assert browser.post(f"{paths[1]}/judges", data=form).status_code == 303
    answer_all(studio.database, Files(studio.settings.root), answers_id)
    with studio.database.writing() as session:
        (judgement,) = list_judgements(session, [answers_id])
        facts = describe_pairs([PairVerdict(0, "win", "loss"), PairVerdict(1, "win", "loss")])
        judgement.facts = {**judgement.facts, "verdicts": facts.model_dump(mode="json")}
    page = browser.get(paths[1]).text
    assert "Lab against Lab" in page
    assert "It prefers what it reads first in 100 % of its choices" in page
