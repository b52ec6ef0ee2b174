"""The list of runs as a page: narrowed and sorted by its address, and what is done to the ticked runs."""

import html
import re

import pytest

from app.store.tables import Metric, Run


@pytest.fixture
def browser(studio):
    return studio.browser()


def names(page: str) -> list[str]:
    return [html.unescape(name) for name in re.findall(r'<a href="/runs/run_\w+">([^<]*)</a>', page)]


@pytest.fixture
def made(studio, client):
    """Three runs, named alike by this test alone, with figures and a tag."""
    ids = [studio.launch(name=f"Sorted {letter}") for letter in "bca"]
    with studio.database.writing() as session:
        for run_id, kl in zip(ids, (2.0, 1.0, None), strict=True):
            session.get(Run, run_id).kl = kl
    client.patch(f"/api/v1/runs/{ids[1]}", json={"tags": ["of <c>", "x"], "notes": "The second\nof three"})
    yield ids
    for run_id in ids:
        client.post(f"/api/v1/runs/{run_id}/cancel")
        client.delete(f"/api/v1/runs/{run_id}")


def test_the_address_searches_and_sorts(browser, made):
    assert names(browser.get("/runs?q=sorted").text) == ["Sorted a", "Sorted c", "Sorted b"]
    assert names(browser.get("/runs?q=sorted&sort=name").text) == ["Sorted a", "Sorted b", "Sorted c"]
    assert names(browser.get("/runs?q=sorted&sort=name&order=desc").text) == ["Sorted c", "Sorted b", "Sorted a"]
    by_kl = browser.get("/runs?q=sorted&sort=kl").text
    assert names(by_kl) == ["Sorted c", "Sorted b"]
    assert "Sorted by KL: runs that have none yet are left out." in by_kl
    assert 'aria-sort="ascending"><a href="/runs?q=sorted&amp;sort=kl&amp;order=desc">KL</a>' in by_kl
    assert names(browser.get("/runs?q=of+three&tag=of+%3Cc%3E&state=queued").text) == ["Sorted c"]
    assert "No such run" in browser.get("/runs?q=nowhere-at-all").text
    assert browser.get("/runs?sort=loudness&order=up&state=lost&after=run_gone").status_code == 200


def test_each_figure_stands_above_its_interval_which_moves_with_it(browser, studio, made):
    figures = {"reward_gain": 0.5, "reward_gain_low": 0.2, "reward_gain_high": 0.8, "win_rate": 0.625, "kl": 3.5, "kl_low": 3.0}
    ends = {"kl_high": 4.0, "win_rate_low": 0.5, "win_rate_high": 0.75}
    with studio.database.writing() as session:
        for name, value in (figures | ends).items():
            session.add(Metric(run_id=made[0], key=f"eval/{name}", step=4, value=value))
        session.add(Metric(run_id=made[1], key="test/kl", step=4, value=1.25))
    whole, moving = browser.get("/runs?q=sorted").text, browser.get(f"/runs/rows?ids={','.join(made)}").text
    for page in (whole, moving):
        told = " ".join(re.sub("<[^>]*>", " ", page).split())
        for figure in ("+0.500 +0.200 to +0.800", "62 % 50 % to 75 %", "3.50 3.00 to 4.00", "1.25"):
            assert figure in told, told
    assert "Below each figure its 95 % interval" in whole


def test_tags_and_the_first_line_of_notes_stand_in_the_row(browser, made):
    page = browser.get("/runs?q=sorted").text
    assert "<li>of &lt;c&gt;</li>" in page
    assert "The second" in page
    assert "of three" not in page


def test_enter_after_tags_adds_them(browser, made):
    buttons = re.findall(r'formaction="([^"?]+)', browser.get("/runs?q=sorted").text)
    assert buttons == ["/runs/tag", "/runs/tag", "/runs/compare", "/runs/delete"]


def test_ticked_runs_are_tagged_and_the_list_stays_where_it_was(browser, client, made):
    answer = browser.post("/runs/tag?q=sorted&sort=name", data={"chosen": made[:2], "words": "x, new"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs?q=sorted&sort=name")
    tags = [client.get(f"/api/v1/runs/{run_id}").json()["tags"] for run_id in made]
    assert tags == [["new", "x"], ["new", "of <c>", "x"], []]
    browser.post("/runs/tag", data={"chosen": made, "words": "x,new", "untag": "true"})
    assert client.get(f"/api/v1/runs/{made[1]}").json()["tags"] == ["of <c>"]
    refused = browser.post("/runs/tag", data={"chosen": made[:1], "words": "a" * 41})
    assert refused.status_code == 409
    assert "Sorted b: A tag has 1 to 40 characters" in refused.text


def test_ticked_runs_that_ended_are_deleted_and_the_others_say_why_not(browser, client, eve, made):
    client.post(f"/api/v1/runs/{made[0]}/cancel")
    assert eve.post("/runs/delete", data={"chosen": made[0]}).status_code == 409
    answer = browser.post("/runs/delete?q=sorted", data={"chosen": [*made[:2], "run_gone"]})
    assert answer.status_code == 409
    assert names(answer.text) == ["Sorted a", "Sorted c"]
    assert "2 runs stayed as they are" in answer.text
    assert "Sorted c: Run" in answer.text
    assert "cancel it first" in answer.text
    assert client.get(f"/api/v1/runs/{made[0]}").status_code == 404
    assert browser.post("/runs/delete", data={}).status_code == 422


def test_ticked_runs_that_have_a_model_are_compared(studio, browser, made):
    refused = browser.post("/runs/compare?q=sorted", data={"chosen": made[:2]})
    assert refused.status_code == 409
    assert "Sorted b: only a run that has succeeded has a model to compare." in html.unescape(refused.text)
    with studio.database.writing() as session:
        for run_id in made[:2]:
            session.get(Run, run_id).state = "succeeded"
    answer = browser.post("/runs/compare", data={"chosen": [*made[:2], made[0]]})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/comparisons/new?runs={made[0]}%2C{made[1]}")
    assert browser.get(answer.headers["location"]).status_code == 200


def test_a_run_is_described_on_its_page_by_who_may_change_it(browser, client, eve, made):
    answer = browser.post(f"/runs/{made[0]}/describe", data={"tags": "b, a <b>", "notes": "Line one\r\nline two"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{made[0]}")
    run = client.get(f"/api/v1/runs/{made[0]}").json()
    assert (run["tags"], run["notes"]) == (["a <b>", "b"], "Line one\nline two")
    page = browser.get(f"/runs/{made[0]}").text
    assert "<li>a &lt;b&gt;</li>" in page
    assert 'action="/runs/' + made[0] + '/describe"' in page
    assert browser.post(f"/runs/{made[0]}/describe", data={"tags": "x" * 41}).status_code == 422
    assert eve.post(f"/runs/{made[0]}/describe", data={"tags": "mine"}).status_code == 403
    assert "/describe" not in eve.get(f"/runs/{made[0]}").text
