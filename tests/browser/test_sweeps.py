"""The page of a sweep while its runs go on: table, frontier, what it takes in without a reload, what can be done."""

import re

import pytest
from playwright.sync_api import Page, expect

from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.domain.sweep import parse_request
from app.services import attempts, runs, sweeps
from app.store import sweeps as store
from tests.browser.payloads import PAYLOADS
from tests.browser.studio import WebStudio, Writer
from tests.browser.test_everywhere import CONTRAST

HOSTILE = [payload for payload in PAYLOADS if payload.isprintable()]


def launch(studio: WebStudio, name: str = "Heat", **parts) -> str:
    request = {"name": name, "recipe": {**studio.recipe().to_dict(), "name": ""}, **(parts or {"lambda": [0.1, 0.3, 1]})}
    with studio.database.writing() as session:
        return sweeps.launch(session, studio.user.id, parse_request(request)).id


def drain(writer: Writer, sweep_id: str) -> None:
    """Claim what other tests left in the queue, and the sweep's first run."""
    with writer.studio.database.reading() as session:
        first = store.list_runs(session, sweep_id)[0].id
    writer.begin(first)


def evaluate(writer: Writer, step: int, kl: float, gain: float) -> None:
    metrics = {"eval/kl": kl, "eval/reward_gain": gain, "eval/win_rate": 0.6, "eval/win_rate_low": 0.4, "eval/win_rate_high": 0.8}
    writer.say({"kind": "evaluation", "step": step, "metrics": {**metrics, "eval/loss": 1.5, "eval/length_policy": 40.0}})


@pytest.fixture
def sweep(studio: WebStudio) -> tuple[str, Writer]:
    """Three temperatures: the first has succeeded, the second is at step 20, the third waits."""
    sweep_id, writer = launch(studio), Writer(studio)
    drain(writer, sweep_id)
    for finish in (True, False):
        writer.prepare(weights=False)
        writer.steps(1, 20)
        evaluate(writer, 0, 0.0, 0.0)
        evaluate(writer, 20, 2.0 if finish else 1.0, 1.5 if finish else 1.0)
        if finish:
            writer.finish()
            writer.claim()
    return sweep_id, writer


def open_sweep(page: Page, sweep_id: str, query: str = "") -> None:
    page.goto(f"/sweeps/{sweep_id}{query}")
    expect(page.locator("#frontier[data-drawn]")).to_be_attached()


def picture(page: Page) -> str:
    return page.locator("#frontier canvas").first.evaluate("canvas => canvas.toDataURL()")


def row(page: Page, label: str):
    return page.locator("#result-rows tr").filter(has=page.get_by_role("link", name=label, exact=True))


def test_the_first_paint_needs_no_script(studio, browser, sweep):
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    page = context.new_page()
    page.goto(f"/sweeps/{sweep[0]}")
    expect(page.locator("#status .badge")).to_have_text("running")
    expect(page.locator("#result-rows tr")).to_have_count(3)
    expect(page.locator("#front-rows tr")).to_have_count(2)
    expect(page.locator("#best")).to_contain_text("λ 0.1 gains most: reward +1.50 at a KL of 2.00, after step 20.")
    expect(page.locator("#best")).to_contain_text("The validation prompts chose it.")
    expect(page.locator("#histograms svg")).to_have_count(2)
    context.close()


def test_what_happens_comes_into_the_page_and_leaves_focus_and_chart(page, sweep):
    sweep_id, writer = sweep
    open_sweep(page, sweep_id)
    expect(page.locator("#frontier")).to_have_attribute("data-points", "4")
    before = picture(page)
    page.get_by_role("link", name="λ 0.3", exact=True).focus()
    evaluate(writer, 40, 1.5, 2.5)
    expect(page.locator("#frontier")).to_have_attribute("data-points", "5")
    expect(page.locator("#best")).to_contain_text("λ 0.3 gains most: reward +2.50")
    expect(row(page, "λ 0.3")).to_contain_text("+2.50")
    expect(row(page, "λ 0.3")).to_have_class("best")
    assert picture(page) != before
    assert page.evaluate("document.activeElement.textContent") == "λ 0.3"
    assert page.locator("#frontier canvas").count() == 1
    writer.finish()
    expect(row(page, "λ 0.3").locator(".badge")).to_have_text("succeeded")
    expect(page.locator("#counts")).to_contain_text("2 of 3 succeeded, 1 queued")


def test_the_best_is_sought_within_a_budget_of_kl(page, sweep):
    open_sweep(page, sweep[0])
    page.get_by_label("Within a KL of").fill("1,2")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"kl=1"))
    expect(page.locator("#best")).to_contain_text("λ 0.3 gains most within 1.2 nats: reward +1.00")
    with page.expect_request("**/live?kl=1*"):  # the budget stays while the page is kept up to date
        pass
    open_sweep(page, sweep[0], "?kl=0.5")
    expect(page.locator("#best")).to_contain_text("No variant’s last evaluation lies within 0.5 nats")


def test_a_budget_that_is_no_number_is_told_so(page, complaints, sweep):
    page.goto(f"/sweeps/{sweep[0]}?kl=near")
    expect(page.locator("main")).to_contain_text("Type the budget of KL as a number of nats, 0 or more, not 'near'.")
    complaints.clear()


def test_the_chart_follows_theme_and_scale(page, sweep):
    page.emulate_media(color_scheme="light")
    open_sweep(page, sweep[0])
    light = picture(page)
    page.get_by_label("KL on a logarithmic scale").check()
    assert picture(page) != light
    page.get_by_label("KL on a logarithmic scale").uncheck()
    page.get_by_role("button", name="Switch between light and dark").click()
    assert picture(page) != light


def test_a_sweep_is_stopped_resumed_extended_and_deleted(page, studio):
    sweep_id = launch(studio, "To be stopped", **{"lambda": [0.2, 0.4]})
    open_sweep(page, sweep_id)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the sweep").click()
    expect(page.locator("#status .badge")).to_have_text("stopped")
    page.get_by_role("button", name="Resume what is missing").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    page.locator("summary", has_text="Add variants").click()
    page.get_by_label("Temperatures λ").fill("0.4, 2")
    page.get_by_label("DPO").check()
    page.get_by_role("button", name="Launch them").click()
    expect(page.locator("#result-rows tr")).to_have_count(4)
    page.wait_for_load_state()  # without its scripts a page asks nothing before it acts
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the sweep").click()
    expect(page.locator("#status .badge")).to_have_text("stopped")
    page.wait_for_load_state()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the sweep and its runs").click()
    expect(page).to_have_url(re.compile(r"/sweeps$"))
    expect(page.get_by_role("link", name="To be stopped")).to_have_count(0)


def test_a_sweep_that_is_stopping_says_so(page, studio, sweep):
    sweep_id, writer = sweep
    open_sweep(page, sweep_id)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop the sweep").click()
    expect(page.locator("#status")).to_contain_text("stopping after the current step")
    expect(page.get_by_role("button", name="Resume what is missing")).to_have_count(0)
    with studio.database.writing() as session:
        attempts.finish(session, writer.run_id, writer.token, OutcomeReached(outcome=Outcome.CANCELLED))
    expect(page.locator("#status .badge")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Resume what is missing")).to_have_count(1)


def test_a_run_names_its_sweep_in_the_list_and_on_its_page(page, sweep):
    page.goto("/runs")
    page.get_by_role("link", name="Heat", exact=True).first.click()
    expect(page.locator("h1")).to_have_text("Heat")
    page.get_by_role("link", name="λ 1", exact=True).click()
    expect(page.locator(".crumbs")).to_contain_text("Heat")


CUT = """[...document.querySelectorAll('#result-rows td')].filter(cell => cell.offsetParent).filter(cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return range.getBoundingClientRect().right > cell.getBoundingClientRect().right + 0.5;
}).map(cell => cell.innerText)"""


@pytest.mark.parametrize("width", [360, 480, 700])
def test_on_a_narrow_screen_every_cell_of_a_variant_holds_its_text(page, sweep, width):
    sweep_id, writer = sweep
    writer.say({"kind": "step", "step": 21, "num_steps": 40, "epoch": 1.0, "batch": 0, "metrics": {"tokens_per_second": 9e5}})
    page.set_viewport_size({"width": width, "height": 800})
    open_sweep(page, sweep_id)
    expect(row(page, "λ 0.3")).to_contain_text("tokens/s")
    assert page.evaluate(CUT) == []


def test_a_deleted_run_shows_as_deleted(page, studio, sweep):
    sweep_id, _ = sweep
    with studio.database.writing() as session:
        third = store.list_runs(session, sweep_id)[2]
        runs.request_cancel(session, studio.user.id, third.id)
        runs.delete(session, studio.files, studio.user.id, third.id)
    page.goto(f"/sweeps/{sweep_id}")
    expect(page.locator("#result-rows tr").last).to_contain_text("deleted")
    expect(page.locator("#counts")).to_contain_text("1 deleted")


@pytest.fixture(scope="module")
def hostile(studio: WebStudio) -> str:
    """A sweep whose names, labels and findings are attacks."""
    revisions = [payload for payload in HOSTILE if len(payload) <= 110][:20]
    sweep_id = launch(studio, HOSTILE[0], fields={"policy.revision": revisions})
    writer = Writer(studio)
    drain(writer, sweep_id)
    writer.prepare(weights=False)
    writer.steps(1, 3)
    evaluate(writer, 3, 1.0, 1.0)
    finding = {"kind": "finding", "severity": "error", "evidence": "e", "remedy": "r"}
    writer.say(*({**finding, "name": payload, "title": payload} for payload in HOSTILE[:30]))
    return sweep_id


@pytest.mark.parametrize("path", ["/sweeps", "/sweeps/SWEEP"])
def test_hostile_texts_stay_texts_and_the_page_is_sound(page, studio, hostile, path):
    page.on("request", lambda request: pytest.fail(request.url) if "stolen" in request.url else None)
    page.goto(path.replace("SWEEP", hostile))
    page.wait_for_timeout(2300)  # one refresh
    assert page.evaluate("window.stolen") is None
    assert page.locator("main").get_by_text(HOSTILE[0]).count() >= 1
    assert page.locator("script:not([src]), [onerror], [onload], iframe, base").count() == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    nameless = "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(e => !e.labels.length).length"
    assert page.evaluate(nameless) == 0
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.reload()
        assert (theme, page.evaluate(CONTRAST)) == (theme, [])
