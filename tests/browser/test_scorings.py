"""Scorings in a browser: the list, one in the making, the reward check and the λ preview, by form and without scripts."""

import re
from itertools import count

import pytest
from playwright.sync_api import expect

from app.services import runs, scorings
from app.store.scorings import get_scoring
from tests.browser.payloads import PAYLOADS
from tests.browser.scorer import INVERTED, Previewer, facts_of, finish, score
from tests.browser.studio import Writer
from tests.scored import make_part

SEEDS = count(1000)


def ask(studio, name="Kind help desk", **training):
    """A scoring of its own, and the run that is to make it."""
    settings = {"batch_size": 8, "seed": next(SEEDS), **training}
    with studio.database.writing() as session:
        scoring = scorings.request(session, studio.user.id, studio.recipe(name=name, training=settings))
        return scoring.id, scoring.run_id


@pytest.fixture
def scoring_id(studio):
    """A scoring that is ready."""
    scoring_id, run_id = ask(studio)
    score(studio, run_id)
    return scoring_id


def test_a_scoring_in_the_making_becomes_a_ready_one_by_itself(page, studio):
    scoring_id, run_id = ask(studio, "In the making")
    page.goto("/scorings")
    row = page.get_by_role("row", name="In the making")
    expect(row).to_contain_text("queued")
    row.get_by_role("link", name="In the making").click()
    expect(page.locator("#making")).to_be_visible()
    writer = Writer(studio)
    writer.begin(run_id)
    writer.say({"kind": "stage", "stage": "score", "total": 76, "unit": "batches"})
    writer.say({"kind": "progress", "stage": "score", "done": 38, "total": 76})
    expect(page.locator("#making progress")).to_have_attribute("value", "0.5")
    finish(writer)
    expect(page.get_by_role("heading", name="Reward check")).to_be_visible(timeout=10_000)
    expect(page.locator("#making")).to_have_count(0)
    assert page.url.endswith(scoring_id)


def test_the_page_says_what_is_in_it_and_what_the_rewards_know(page, studio, scoring_id):
    run_id = studio.launch(training={"batch_size": 8, "seed": next(SEEDS) - 1})
    with studio.database.writing() as session:
        session.get(type(runs.get_run(session, studio.user.id, run_id)), run_id).scoring_id = scoring_id
    page.goto(f"/scorings/{scoring_id}")
    expect(page.get_by_text("The rewards know the labels")).to_be_visible()
    expect(
        page.get_by_role("img", name=re.compile("Agreement with the labels: Reward 83.% .*, Longer is better 62.%"))
    ).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Rewards: mean 0.310, standard deviation 1.24"))).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("Log-probabilities logprob-.*9 728.*each prompt once"))).to_be_visible()
    expect(page.locator("section[aria-labelledby=users]")).to_contain_text("Kind help desk")
    with studio.database.writing() as session:
        runs.request_cancel(session, studio.user.id, run_id)


def test_inverted_rewards_and_reasons_of_misses_are_told(page, studio):
    scoring_id, run_id = ask(studio)
    score(studio, run_id, INVERTED)
    with studio.database.writing() as session:
        reward = make_part("reward-x", miss_reason="The nearest scoring was made with another reward model.")
        scoring = get_scoring(session, studio.user.id, scoring_id)
        scoring.facts = facts_of(INVERTED).model_copy(update={"reward": reward}).model_dump(mode="json")
    page.goto(f"/scorings/{scoring_id}")
    expect(page.get_by_role("alert")).to_contain_text("The rewards contradict the labels")
    expect(page.get_by_text("The nearest scoring was made with another reward model.")).to_be_visible()


def test_the_preview_comes_by_itself_and_changes_with_the_form(page, studio, scoring_id):
    with Previewer(studio) as previewer:
        page.goto(f"/scorings/{scoring_id}")
        table = page.locator(".preview-table")
        expect(table.locator("tr:has(svg)")).to_have_count(5)
        expect(page.locator(".near")).to_contain_text("λ 0.3")
        page.get_by_label("Paper").check()
        page.get_by_label("λ grid").fill("0.05, 2")
        page.get_by_label("Batch sizes").fill("4, 8")
        page.get_by_text("what if labels or rewards").click()
        page.get_by_label("Noise on the rewards").fill("0.2")
        page.get_by_role("button", name="Preview").click()
        expect(table).to_have_count(4)
        asked = previewer.asked[-1]
        assert (asked.presets, asked.lambdas, asked.batch_sizes) == (["paper", "length_normalised"], [0.05, 2.0], [4, 8])
        assert asked.reward_std == 0.2
        row = page.get_by_role("region", name="Paper, B 4").get_by_role("row").nth(1)
        expect(row).to_contain_text("One response takes the batch")
        page.get_by_text("Heaviest and lightest responses").first.click()
        expect(page.locator(".extremes").first.locator("li")).to_have_count(10)
        expect(page.get_by_text("What to do:").first).to_be_visible()


def test_a_lambda_of_zero_is_refused_by_name(page, studio, scoring_id, complaints):
    with Previewer(studio):
        page.goto(f"/scorings/{scoring_id}")
        expect(page.locator("#preview-result table").first).to_be_visible()  # what the page asks by itself has come
        page.get_by_label("λ grid").fill("0, 1")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#preview-result").get_by_role("alert")).to_contain_text("λ grid must be greater than 0, not 0.")
    complaints[:] = [complaint for complaint in complaints if "422" not in complaint]


def test_the_suggested_lambda_leads_to_the_launch_form(page, studio, scoring_id):
    with Previewer(studio):
        page.goto(f"/scorings/{scoring_id}")
        page.get_by_role("link", name="New run with λ 0.427").click()
        expect(page.get_by_label("Temperature λ")).to_have_value("0.427")
        assert page.locator("[name='dataset']").input_value() == studio.dataset.id
        assert page.locator("[name='training.batch_size']").input_value() == "8"


def test_without_a_worker_the_page_says_so_and_goes_on_when_one_comes(page, studio, scoring_id, monkeypatch):
    page.goto(f"/scorings/{scoring_id}")
    expect(page.locator("#preview-result")).to_contain_text("A worker computes the preview")
    with Previewer(studio):
        expect(page.locator(".preview-table")).to_have_count(1, timeout=25_000)


def test_a_scoring_that_failed_is_asked_for_again(page, studio):
    scoring_id, run_id = ask(studio)
    with studio.database.writing() as session:
        runs.request_cancel(session, studio.user.id, run_id)
    page.goto(f"/scorings/{scoring_id}")
    expect(page.get_by_role("alert")).to_contain_text("Its run was cancelled.")
    page.get_by_role("button", name="Score again").click()
    expect(page.locator("#making")).to_be_visible()
    score(studio, run_id)


def test_a_scoring_is_deleted_after_a_question(page, studio, scoring_id):
    with Previewer(studio):
        page.goto(f"/scorings/{scoring_id}")
        expect(page.locator(".preview-table")).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the scoring").click()
    expect(page).to_have_url(f"{studio.url}/scorings")
    assert page.request.get(f"/scorings/{scoring_id}").status == 404


def test_the_preview_works_without_scripts(studio, browser, scoring_id):
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    page = context.new_page()
    with Previewer(studio):
        page.goto(f"/scorings/{scoring_id}")
        page.get_by_role("button", name="Preview").click()
        expect(page.locator(".preview-table tr:has(svg)")).to_have_count(5)
        page.get_by_label("λ grid").fill("-1")
        page.get_by_role("button", name="Preview").click()
        expect(page.get_by_role("alert")).to_contain_text("λ grid must be greater than 0, not -1.")
        expect(page.get_by_label("λ grid")).to_have_value("-1")
    context.close()


def test_hostile_names_stay_texts(page, studio):
    scoring_id, run_id = ask(studio, PAYLOADS[0][:120])
    score(studio, run_id)
    with Previewer(studio):
        for path in ("/scorings", f"/scorings/{scoring_id}"):
            page.goto(path)
            page.wait_for_timeout(300)
            assert page.evaluate("window.stolen") is None
            assert page.locator("script:not([src]):not([type='application/json']), [onerror], [onload], iframe").count() == 0


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(page, studio, scoring_id, width, theme):
    from tests.browser.test_everywhere import CONTRAST

    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=theme)
    with Previewer(studio):
        page.goto(f"/scorings/{scoring_id}")
        page.get_by_text("Heaviest and lightest responses").first.click()
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert page.evaluate(CONTRAST) == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), [id for id in ids if ids.count(id) > 1]
        nameless = "[...document.querySelectorAll('input:not([type=hidden])')].filter(e => !e.labels.length).map(e => e.name)"
        assert page.evaluate(nameless) == []
