"""Home: three steps until the first run, then what runs, what needs somebody, what came out; nobody else's of it."""

import re

import pytest
from sqlalchemy import select

from app.domain.events import EvaluationLogged, FinalLogged, FindingRaised, OutcomeReached
from app.domain.run import Outcome
from app.store.database import now
from app.store.tables import Run, Worker
from tests.web.conftest import make_app, opened
from tests.web.test_runs import SUCCEEDED, record, step

FAILED = OutcomeReached(outcome=Outcome.FAILED, reason="The disk <is> full.", remedy="Free some.", retry=False)


@pytest.fixture
def fresh(tmp_path, migrated_sqlite):
    """A studio in which nobody did anything yet."""
    with opened(make_app(tmp_path, migrated_sqlite), tmp_path) as studio:
        yield studio


def done_steps(page: str) -> list[bool]:
    return ["data-done" in item for item in re.findall(r'<li class="card"[^>]*>', page)]


def test_an_empty_studio_says_what_to_do_and_ticks_what_is_done(fresh):
    browser = fresh.browser()
    page = browser.get("/").text
    assert done_steps(page) == [False, False, False]
    assert "Now running" not in page
    assert "No worker" in page
    fresh.upload()
    assert done_steps(browser.get("/").text) == [True, False, False]
    fresh.ingredients()
    assert done_steps(browser.get("/").text) == [True, True, False]
    fresh.launch()
    assert done_steps(page := browser.get("/").text) == []
    assert "Now running" in page


def test_what_runs_shows_its_course_and_what_came_out_its_intervals(studio):
    metrics = {"test/reward_gain": 1.5, "test/reward_gain_low": 1.25, "test/reward_gain_high": 1.75, "test/win_rate": 0.75}
    ended = record(studio, [EvaluationLogged(step=9, metrics={"eval/kl": 2.0}), FinalLogged(step=9, metrics=metrics)], SUCCEEDED)
    running = record(studio, [step(n, loss=4.0 - n) for n in range(1, 4)])
    page = studio.browser().get("/").text
    assert f'href="/runs/{running}"' in page
    assert '<polyline points="2.0,2.0 80.0,18.0 158.0,34.0"/>' in page
    result = page[page.index("Latest results") :]
    assert f'href="/runs/{ended}"' in result
    for text in ("+1.50", "+1.25 to +1.75", "2.00"):
        assert text in result, text


def test_what_needs_somebody_is_named_with_its_reason(studio, client):
    finding = FindingRaised(name="weight_collapse", severity="warning", title="One response", evidence="…", remedy="…", step=1)
    note = finding.model_copy(update={"severity": "info", "title": "Merely told", "name": "length_following"})
    found, failed, paused = record(studio, [finding, note]), record(studio, [], FAILED), studio.launch(name="Held back")
    client.post(f"/api/v1/runs/{paused}/pause")
    dataset = studio.upload('{"x": 1}\n', "odd.jsonl")
    assert dataset["state"] == "needs_mapping"
    page = studio.browser().get("/home", headers={"hx-request": "true"}).text
    assert "<html" not in page
    needs = page[page.index("Needs you") :]
    assert f'href="/runs/{found}#findings"' in needs
    assert "The disk &lt;is&gt; full." in needs
    for text in (f"/runs/{failed}", "Held back", f"/datasets/{dataset['id']}", "One response"):
        assert text in needs, text
    assert "Merely told" not in needs


def test_home_shows_nothing_of_others(studio, eve):
    record(studio, [], FAILED)
    page = eve.get("/").text
    assert done_steps(page) == [True, True, False]  # data and a model of others can be begun with
    assert "failed" not in page


def test_home_says_whose_work_holds_the_slots(studio, eve):
    hold(studio, run_id := record(studio, []))
    page = eve.get("/home").text
    assert f'<a href="/runs/{run_id}">' in page
    assert "of admin" in page
    studio.client().patch(f"/api/v1/runs/{run_id}", json={"private": True})
    page = eve.get("/home").text
    assert "a private run" in page
    assert run_id not in page
    assert "by others" not in studio.browser().get("/home").text


def hold(studio, run_id):
    """A worker that is alive and has the run on its only slot, alone."""
    with studio.database.writing() as session:
        at = now(session)
        for run in session.scalars(select(Run).where(Run.state == "running", Run.id != run_id)):
            run.state = "cancelled"
        session.merge(Worker(id="worker-1", hostname="h", devices=[], slots=1, started_at=at, beat_at=at))


def test_an_address_of_the_old_list_leads_to_the_list(studio):
    answer = studio.browser().get("/?state=failed&after=run_1")
    assert (answer.status_code, answer.headers["location"]) == (308, "/runs?state=failed&after=run_1")
