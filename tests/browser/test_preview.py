"""Before a launch: score, preview, take the suggested λ, launch beside baselines; and the word that inverted rewards ask for."""

import re

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete

from app.services import scorings
from app.store.runs import get_run
from app.store.tables import Preview, Run, Sweep, Worker
from tests.browser.scorer import INVERTED, Previewer, finish, score
from tests.browser.studio import Writer
from tests.browser.test_everywhere import CONTRAST


def fill(page, studio, **texts):
    """The form with data set, policy and reward model; `texts` by the inputs' ids."""
    page.get_by_label("Data set", exact=True).select_option(studio.dataset.id)
    page.get_by_label("Policy", exact=True).select_option(studio.policy.id)
    page.locator("#reward-source").get_by_label("Reward model").check()
    page.locator("#reward-model").select_option(studio.reward.id)
    for id, text in texts.items():
        page.locator(f"#{id.replace('__', '-')}").fill(text)


def newest(studio, table):
    with studio.database.reading() as session:
        return session.query(table).order_by(table.id.desc()).first()


def seeded(studio, seed):
    """A scoring of its own for a test: the seed of the batch plan tells it from the others."""
    with studio.database.writing() as session:
        recipe = studio.recipe(training={"seed": seed}, name=f"Scored {seed}")
        return scorings.request(session, studio.user.id, recipe)


def test_from_choosing_to_a_sweep_beside_a_baseline(page, studio):
    with studio.database.writing() as session:  # the worker would answer what other tests have left waiting, too
        session.execute(delete(Preview))
    page.goto("/runs/new")
    expect(page.locator("#panel")).to_contain_text("Choose a data set, a policy")
    fill(page, studio, training__batch_size="6")
    page.get_by_role("button", name="Score now").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#panel")).to_contain_text("Scoring: Waits for a worker")
    expect(page.get_by_role("button", name="Preview", exact=True)).to_be_focused()
    expect(page.locator("#live")).to_have_text("The scoring goes on")
    writer = Writer(studio)
    writer.begin(newest(studio, Run).id)
    writer.say(
        {"kind": "stage", "stage": "score", "total": 76, "unit": "batches"},
        {"kind": "progress", "stage": "score", "done": 38, "total": 76},
    )
    expect(page.locator("#panel")).to_contain_text("Scoring: Score 50")
    with Previewer(studio) as worker:
        finish(writer)
        expect(page.locator("#panel")).to_contain_text("The rewards know the labels")
        expect(page.locator("#weights-target_ess")).to_have_value("0.5")
        expect(page.locator("#found-lambda")).to_have_text("λ = 0.427 on these scores.")
        page.get_by_role("button", name="Use λ 0.427").click()
        expect(page.get_by_label("Temperature λ")).to_have_value("0.427")
        expect(page.get_by_label("Temperature λ")).to_be_focused()
        expect(page.locator("#panel tr.chosen")).to_contain_text("λ 0.427")
        for width in (1440, 1280):  # findings and the buttons stand in the last columns
            page.set_viewport_size({"width": width, "height": 900})
            assert (
                page.evaluate("(([one]) => one.scrollWidth - one.clientWidth)(document.querySelectorAll('#panel .table-scroll'))")
                == 0
            )
        expect(page.locator("#found-lambda")).to_have_text("The λ that is typed is used instead.")
        assert [request.lambdas for request in worker.asked] == [[0.03, 0.1, 0.3, 1.0, 3.0], [0.03, 0.1, 0.3, 0.427, 1.0, 3.0]]
    expect(page.locator("#live")).to_have_text("Temperature λ is now 0.427")
    page.get_by_label("Batch size B").fill("4")
    expect(page.locator("#panel")).to_contain_text("scores of the same data by the same models")
    expect(page.locator("#panel").get_by_role("link", name="B 6")).to_be_visible()
    page.get_by_label("SFT on chosen").check()
    page.get_by_label("DPO", exact=True).check()
    page.get_by_role("button", name="Launch the runs").click()
    page.wait_for_url("**/sweeps/*")
    sweep = newest(studio, Sweep)
    assert page.url.endswith(sweep.id)
    assert [variant["label"] for variant in sweep.variants] == ["VAR, λ 0.427", "SFT on chosen", "DPO"]
    assert sweep.variants[0]["recipe"]["weights"]["lambda"] == 0.427


def test_several_temperatures_become_a_sweep(page, studio):
    page.goto("/runs/new")
    expect(page.locator("#launch-button")).to_have_text("Launch the run", use_inner_text=True)
    fill(page, studio, weights__lambda="0.1, 0.3, 1")
    expect(page.locator("#launch-button")).to_have_text("Launch the runs", use_inner_text=True)
    page.get_by_role("button", name="Launch the runs").click()
    page.wait_for_url("**/sweeps/*")
    assert [variant["recipe"]["weights"]["lambda"] for variant in newest(studio, Sweep).variants] == [0.1, 0.3, 1.0]


def test_a_temperature_among_several_that_is_none_is_named(page, studio, complaints):
    page.goto("/runs/new")
    fill(page, studio, weights__lambda="0.1, 0")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#weights-lambda-error")).to_contain_text("greater than 0")
    expect(page.locator("#weights-lambda")).to_have_value("0.1, 0")
    complaints.clear()


def test_enter_previews_whatever_buttons_stand_above(page, studio):
    with Previewer(studio):
        page.goto("/runs/new")
        fill(page, studio, training__batch_size="6")
        expect(page.get_by_role("button", name=re.compile("Use .* tokens for prompts"))).to_be_visible()
        page.wait_for_load_state("networkidle")
        with page.expect_request(lambda request: request.method == "POST" and "summary" not in request.url) as asked:
            page.locator("#training-batch_size").press("Enter")
    assert asked.value.url.endswith("/runs/new/preview")
    expect(page.locator("#tokens-max_prompt")).to_have_value("512")


def test_inverted_rewards_need_an_explicit_word(page, studio, complaints):
    score(studio, seeded(studio, 71).run_id, INVERTED)
    with Previewer(studio, INVERTED):
        page.goto("/runs/new")
        fill(page, studio, weights__lambda="0.3")
        page.get_by_text("schedule, micro-batches").click()
        page.locator("#training-seed").fill("71")
        page.get_by_label("Temperature λ").press("Enter")  # previews, as the first button does; it doesn't launch
        expect(page.locator("#inverted")).to_contain_text("The rewards contradict the preferences")
        expect(page.locator("#inverted")).to_contain_text("in only 21")
        page.get_by_role("button", name="Launch anyway").click()
        expect(page.locator("#error-summary")).to_contain_text("higher reward in only 21")
        complaints.clear()  # the browser reports the 422 itself
        page.locator("#error-summary a").first.click()
        expect(page.get_by_label("I know, and mean it")).to_be_focused()
        page.get_by_label("I know, and mean it").check()
        page.get_by_role("button", name="Launch anyway").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    with studio.database.reading() as session:
        recipe = get_run(session, studio.user.id, page.url.rsplit("/", 1)[-1]).recipe
    assert recipe["reward"]["accept_inverted"] is True


def test_without_scripts_every_step_is_a_page(studio, browser):
    scoring = seeded(studio, 72)
    score(studio, scoring.run_id)
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    page = context.new_page()
    with Previewer(studio):
        page.goto(f"/runs/new?scoring={scoring.id}&weights.preset=paper&weights.lambda=0.1")
        expect(page.get_by_label("Paper")).to_be_checked()
        expect(page.get_by_label("Temperature λ")).to_have_value("0.1")
        expect(page.locator("#training-seed")).to_have_value("72")
        page.get_by_role("button", name="Preview", exact=True).click()
        expect(page.locator("#panel tr.chosen")).to_contain_text("λ 0.1")
        page.get_by_role("button", name="Use λ 0.427").click()
        expect(page.get_by_label("Temperature λ")).to_have_value("0.427")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    context.close()


def test_a_preview_that_no_worker_answers_says_so(page, studio):
    scoring = seeded(studio, 73)
    score(studio, scoring.run_id)
    with studio.database.writing() as session:
        session.query(Worker).delete()
    page.goto(f"/runs/new?scoring={scoring.id}")
    expect(page.locator("#panel")).to_contain_text("No worker is running")
    with Previewer(studio):
        expect(page.locator("#panel tr.near")).to_contain_text("λ 0.3")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_panel_is_narrow_named_and_stands_out(page, studio, theme):
    scoring = seeded(studio, 75)
    with studio.database.reading() as session:
        is_made = session.get(type(scoring), scoring.id).facts is not None
    if not is_made:
        score(studio, scoring.run_id, INVERTED)
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 360, "height": 800})
    with Previewer(studio, INVERTED):
        page.goto(f"/runs/new?scoring={scoring.id}&weights.lambda=0.03")
        expect(page.locator("#panel tr.chosen")).to_contain_text("λ 0.03")
    for summary in page.locator("#panel summary").all()[:2]:
        summary.click()
    expect(page.locator("#panel")).to_contain_text("Raise “Temperature λ”")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    cut = "[...document.querySelectorAll('#panel .table-scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(cut) == 0
    assert page.evaluate(CONTRAST) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)), [id for id in ids if ids.count(id) > 1]
    nameless = "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(e => !e.labels.length).map(e => e.name)"
    assert page.evaluate(nameless) == []


def test_a_scoring_that_failed_says_why_and_can_be_made_again(page, studio):
    scoring = seeded(studio, 74)
    page.goto(f"/runs/{scoring.run_id}")
    expect(page.locator(".page-head .lead")).to_contain_text("Scores SmolLM2-135M-Instruct")
    expect(page.locator("#stepper li")).to_have_count(2)
    expect(page.locator("#samples")).to_be_hidden()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#status .badge")).to_have_text("cancelled")
    page.goto(f"/runs/new?scoring={scoring.id}")
    expect(page.locator("#panel")).to_contain_text("Its run was cancelled.")
    page.get_by_role("button", name="Score again").click()
    expect(page.locator("#panel")).to_contain_text("Waits for a worker")


@pytest.mark.parametrize("method", ["SFT", "DPO", "Reward model"])
def test_a_method_is_asked_only_for_what_it_reads(page, studio, method):
    page.goto("/runs/new")
    page.locator("#method").get_by_label(method).check()
    page.get_by_label("Data set", exact=True).select_option(studio.dataset.id)
    page.get_by_label("Policy", exact=True).select_option(studio.policy.id)
    expect(page.get_by_label("Temperature λ")).to_be_hidden()
    expect(page.get_by_text("Online VAR")).to_be_hidden()
    expect(page.locator("#dpo-beta")).to_be_visible(visible=method == "DPO")
    expect(page.get_by_label("Train on")).to_be_visible(visible=method == "SFT")
    expect(page.get_by_label("Adaptation")).to_be_visible(visible=method != "Reward model")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator(".page-head .lead")).to_contain_text(f"{method}: SmolLM2-135M-Instruct")
    expect(page.locator("figure[data-chart=histogram]")).to_have_count(0)
    expect(page.locator("#batch")).to_be_hidden()
    page.get_by_role("link", name="Clone", exact=True).click()
    expect(page.locator("#method").get_by_label(method)).to_be_checked()
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    with studio.database.reading() as session:
        first, second = (run.recipe for run in session.query(Run).order_by(Run.id.desc()).limit(2))
    assert {**first, "name": ""} == {**second, "name": ""}
