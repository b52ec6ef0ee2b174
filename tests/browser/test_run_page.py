"""The run page while a run goes on: what it paints first, what the stream adds, and what survives a reload."""

import pytest
from playwright.sync_api import Locator, Page, expect

from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.services import attempts
from tests.browser.studio import WebStudio, Writer
from tests.waiting import wait_until


@pytest.fixture
def writer(studio: WebStudio) -> Writer:
    """A run at step 20 of 200, with one evaluation behind it."""
    writer = Writer(studio)
    writer.begin(studio.launch())
    writer.prepare()
    writer.evaluate(0)
    writer.steps(1, 20)
    return writer


def open_run(page: Page, writer: Writer, tab: str = "overview") -> None:
    page.goto(f"/runs/{writer.run_id}?tab={tab}")
    expect(page.locator("html[data-stream=open]")).to_be_attached()
    expect(page.locator("html[data-charts=drawn]")).to_be_attached()


def points(page: Page, chart: str) -> int:
    return int(page.locator(f"figure[data-chart={chart}]").get_attribute("data-points"))


def picture(page: Page, chart: str) -> str:
    """The pixels of a chart, as the canvas gives them."""
    return canvas_of(page, chart).evaluate("canvas => canvas.toDataURL()")


def canvas_of(page: Page, chart: str) -> Locator:
    """The canvas of a chart; it is drawn, with all its points, when it comes into sight."""
    figure = page.locator(f"figure[data-chart={chart}]")
    page.locator(figure.evaluate("figure => figure.closest('.tab-panel').id.replace('panel', '#tab')")).click()
    figure.scroll_into_view_if_needed()
    expect(figure).to_have_attribute("data-drawn", figure.get_attribute("data-points"))
    return figure.locator("canvas").first


def test_the_first_paint_needs_no_script(studio, browser, writer):
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    page = context.new_page()
    page.goto(f"/runs/{writer.run_id}")
    expect(page.locator("#status .badge")).to_have_text("running")
    expect(page.locator("#progress-text")).to_have_text("Step 20 of 200")
    expect(page.locator("#sample-groups article")).to_have_count(3)
    expect(page.locator("#log-list")).to_contain_text("Scored 80 batches")
    expect(page.locator("#panel-overview")).to_be_visible()
    page.get_by_role("link", name="Samples", exact=True).click()
    expect(page.locator("#sample-groups article").first).to_be_visible()
    expect(page.locator("#panel-overview")).to_be_hidden()
    context.close()


def test_a_silent_server_shows_within_ten_seconds_and_a_quiet_run_does_not(page, writer):
    page.clock.install()
    open_run(page, writer)
    expect(page.locator("#silence")).to_be_hidden()
    page.clock.fast_forward(9_000)  # nothing can have come meanwhile
    expect(page.locator("#silence")).to_contain_text("Nothing is heard from the server for")
    expect(page.locator("#silence")).to_be_hidden()  # the next beat
    assert page.locator("#progress-text").text_content() == "Step 20 of 200"


def test_final_figures_come_at_the_end_with_their_intervals_and_survive_a_reload(page, writer):
    open_run(page, writer)
    expect(page.locator("#final")).to_be_hidden()
    writer.tell_final()
    expect(page.locator("#final h2")).to_have_text("Final figures")
    expect(page.locator("#final .lead")).to_contain_text("128 test prompts and 128 preferences")
    rate = page.locator("#final .tile", has=page.locator("[data-final='test/win_rate']"))
    expect(rate).to_contain_text("85.9 %")
    expect(rate.locator(".note").first).to_contain_text("79.0 % to 91.0 %")
    live = page.locator("#final").inner_text()
    page.reload()
    assert page.locator("#final").inner_text() == live


def test_charts_move_while_the_run_goes_on(page, writer):
    open_run(page, writer)
    assert points(page, "loss") == 20
    before = {chart: picture(page, chart) for chart in ("loss", "heatmap", "histogram", "correlation")}
    for step in range(21, 31):
        writer.steps(step, step)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "30")
    assert points(page, "heatmap") == 30
    expect(page.locator("#progress-text")).to_have_text("Step 30 of 200")
    assert {chart for chart, old in before.items() if picture(page, chart) == old} == set()


def test_a_reload_shows_the_same_page(page, writer):
    open_run(page, writer)
    writer.steps(21, 40)
    writer.evaluate(40)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "40")
    expect(page.locator("#sample-at")).to_have_text("40")
    parts = "[data-metric], #progress-text, #sample-groups > :not([hidden]) .text"
    shown = f"[...document.querySelectorAll('{parts}')].map(e => e.textContent)"
    drawn = "[...document.querySelectorAll('figure')].map(f => [f.dataset.chart, f.dataset.points])"
    before = page.evaluate(shown), page.evaluate(drawn)
    page.reload()
    expect(page.locator("html[data-charts=drawn]")).to_be_attached()
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "40")
    assert (page.evaluate(shown), page.evaluate(drawn)) == before


def test_a_lost_connection_loses_no_event(page, context, writer):
    open_run(page, writer)
    context.set_offline(True)
    page.evaluate("window.seen = []; addEventListener('offline', () => seen.push('offline'))")
    writer.steps(21, 60)
    writer.say({"kind": "log", "level": "info", "text": "said while nobody listened"})
    context.set_offline(False)
    writer.steps(61, 65)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "65", timeout=20_000)
    expect(page.get_by_text("said while nobody listened")).to_have_count(1)


def test_an_attempt_that_resumes_takes_its_steps_back(page, writer):
    open_run(page, writer)
    writer.say({"kind": "resume", "attempt": 2, "step": 12, "checkpoint": "step-000012"})
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "12")
    writer.steps(13, 15)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "15")
    expect(page.locator("#log-list")).to_contain_text("Attempt 2 goes on after step 12 from step-000012")
    page.reload()
    expect(page.locator("figure[data-chart=heatmap]")).to_have_attribute("data-points", "15")


def test_findings_artifacts_and_the_end_appear_by_themselves(page, writer):
    open_run(page, writer)
    expect(page.locator("#findings")).to_be_hidden()
    writer.say({
        "kind": "finding", "name": "length_driven", "severity": "warning", "title": "Weights follow length", "step": 20,
        "evidence": "Rank correlation with length −0.61.", "remedy": "Use the preset length_normalised.",
    })  # fmt: skip
    expect(page.locator("#findings")).to_contain_text("Weights follow length")
    expect(page.locator("#live")).to_have_text("Finding: Weights follow length")
    writer.steps(21, 200)
    writer.evaluate(200)
    writer.finish()
    expect(page.locator("#status .badge")).to_have_text("succeeded")
    expect(page.locator("#stepper li[data-at=done]")).to_have_count(4)
    expect(page.locator("#artifact-list tr")).to_have_count(5)
    expect(page.locator("html[data-stream=ended]")).to_be_attached()
    page.get_by_role("tab", name="Files").click()
    expect(page.get_by_role("link", name="model/config.json")).to_have_attribute(
        "href", f"/api/v1/runs/{writer.run_id}/artifacts/model/config.json"
    )


def test_what_is_painted_anew_takes_nobodys_place(page, writer):
    open_run(page, writer)
    leading = page.locator("#leading-samples")
    leading.get_by_role("link", name="All samples").focus()
    leading.evaluate("section => { section.dataset.old = 1; }")
    writer.steps(21, 40)
    writer.evaluate(40)
    expect(leading).not_to_have_attribute("data-old", "1")
    expect(leading.get_by_role("link", name="All samples")).to_be_focused()


def test_the_memory_of_training_is_told_as_it_becomes_known(page, writer):
    open_run(page, writer)
    expect(page.locator("#memory")).to_be_hidden()
    planned = {"kind": "memory", "parts": {"weights": 3 * 10**9, "activations": 10**9}, "predicted_bytes": 4 * 10**9}
    writer.say({**planned, "calibrated_bytes": 5 * 10**9, "limit_bytes": 45 * 10**8})
    expect(page.locator("#memory")).to_contain_text("4.0 GB (weights 3.0 GB, activations 1.0 GB)")
    expect(page.locator("#memory .notice")).to_contain_text("5.0 GB is more than the device holds")
    writer.say({**planned, "actual_bytes": 42 * 10**8, "limit_bytes": 45 * 10**8})
    expect(page.locator("#memory")).to_contain_text("At the peak4.2 GB")
    expect(page.locator("#memory .notice")).to_have_count(0)
    expect(page.locator("#log-list")).to_contain_text("Memory: 4.0 GB expected, 4.2 GB at the peak")
    page.reload()
    expect(page.locator("#memory")).to_contain_text("At the peak4.2 GB")


def test_a_trained_reward_model_is_one_step_from_use(page, studio):
    run_id = studio.launch(method="reward_model", policy={"model": studio.policy.id}, reward={}, name="Judge of my own")
    writer = Writer(studio, num_steps=5)
    writer.begin(run_id)
    writer.finish()
    page.goto(f"/runs/{run_id}")
    page.get_by_label("More that can be done").click()
    page.get_by_role("link", name="Register as model").click()
    expect(page.get_by_label("Reward model")).to_be_checked()
    expect(page.get_by_label("A run", exact=False).first).to_be_checked()
    expect(page.locator("#run_id")).to_have_value(run_id)
    expect(page.locator("#name")).to_have_value("Judge of my own")


def test_the_slider_goes_back_to_earlier_samples(page, writer):
    writer.steps(21, 80)
    writer.evaluate(80)
    open_run(page, writer, "samples")
    expect(page.locator("#sample-groups article:visible")).to_have_count(3)
    expect(page.locator("#sample-80-0 [data-side=policy]")).to_contain_text("I'm sorry about that")
    slider = page.get_by_label("Evaluation at step")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#sample-at")).to_have_text("0")
    expect(page.locator("#sample-0-0 [data-side=policy]")).to_contain_text("Not our problem")
    expect(page.locator("#sample-80-0")).to_be_hidden()
    writer.steps(81, 90)
    writer.evaluate(90)
    expect(slider).to_have_attribute("max", "2")
    expect(page.locator("#sample-at")).to_have_text("0")  # who looks back is not pulled away
    page.keyboard.press("End")
    expect(page.locator("#sample-90-0")).to_be_visible()


def test_cancelling_asks_first_and_shows_the_end(page, studio, writer):
    open_run(page, writer)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator("#status .badge")).to_have_text("running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#log-list")).to_contain_text("Cancelling was requested")
    with studio.database.writing() as session:
        assert attempts.renew(session, writer.run_id, writer.token, 60)
        attempts.finish(session, writer.run_id, writer.token, OutcomeReached(outcome=Outcome.CANCELLED))
    expect(page.locator("#status .badge")).to_have_text("cancelled")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#status .badge")).to_have_text("queued")


def test_a_failure_shows_its_reason_and_remedy(page, studio, writer):
    open_run(page, writer)
    outcome = OutcomeReached(
        outcome=Outcome.FAILED, reason="CUDA ran out of memory.", remedy="Lower micro_batch_size.", retry=False
    )
    with studio.database.writing() as session:
        attempts.finish(session, writer.run_id, writer.token, outcome, "last line of the log")
    expect(page.locator("#status")).to_contain_text("CUDA ran out of memory.")
    expect(page.locator("#status")).to_contain_text("Lower micro_batch_size.")
    expect(page.locator("#verdict")).to_have_text("The run failed")
    expect(page.locator("#log-tail")).to_contain_text("last line of the log")
    expect(page.locator("figure[data-chart=leading_histogram]")).to_be_visible()
    expect(page.locator("figure[data-chart=leading_evaluation]")).to_be_visible()
    expect(page.locator("figure[data-chart=wins]")).to_have_attribute("data-points", "1")
    page.reload()
    expect(page.locator("#status")).to_contain_text("CUDA ran out of memory.")
    expect(page.get_by_text("last line of the log")).to_be_visible()


def test_a_run_that_failed_before_a_step_has_no_empty_charts(page, studio):
    writer = Writer(studio)
    writer.begin(studio.launch())
    page.goto(f"/runs/{writer.run_id}")
    expect(page.locator("figure[data-chart=leading_histogram]")).to_be_visible()
    expect(page.locator("html[data-stream=open]")).to_be_attached()
    outcome = OutcomeReached(outcome=Outcome.FAILED, reason="Out of memory.", remedy="Lower it.", retry=False)
    with studio.database.writing() as session:
        attempts.finish(session, writer.run_id, writer.token, outcome, "the end")
    expect(page.locator("#verdict")).to_have_text("The run failed")
    expect(page.locator("figure[data-chart=leading_histogram]")).to_be_hidden()
    page.get_by_role("tab", name="Weights").click()
    expect(page.get_by_role("heading", name="Weights", exact=True)).to_be_hidden()


def test_tabs_are_links_and_go_by_the_keyboard_and_the_address(page, writer):
    open_run(page, writer)
    expect(page.get_by_role("tab", name="Overview")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel-weights")).to_be_visible()
    expect(page.locator("#panel-overview")).to_be_hidden()
    expect(page).to_have_url(f"{page.url.partition('?')[0]}?tab=weights")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Files")).to_be_focused()
    page.go_back()
    expect(page.locator("#panel-weights")).to_be_visible()
    assert page.locator(".tabs").evaluate("bar => bar.scrollHeight <= bar.clientHeight")  # else it has a bar to scroll by a pixel
    page.goto(f"/runs/{writer.run_id}#log")  # an old link into what is a tab now
    expect(page.locator("#log-list")).to_be_visible()
    expect(page.get_by_role("tab", name="Log")).to_have_attribute("aria-selected", "true")


def test_what_comes_while_another_tab_is_open_is_there_when_its_own_is_opened(page, writer):
    open_run(page, writer, "log")
    expect(page.locator("#verdict")).to_contain_text("So far")
    writer.steps(21, 40)
    writer.evaluate(40)
    writer.tell_final()
    writer.finish()
    expect(page.locator("#status .badge")).to_have_text("succeeded")
    page.get_by_role("tab", name="Samples").click()
    expect(page.locator("#sample-40-2")).to_be_visible()
    page.get_by_role("tab", name="Overview").click()
    expect(page.locator("#verdict")).to_have_text("Better than the reference")
    expect(page.locator("[data-leading='test/win_rate']")).to_have_text("85.9 %")
    page.get_by_role("tab", name="Files").click()
    expect(page.locator("#artifact-list tr")).to_have_count(5)
    shown = page.locator("#result").text_content(), page.locator("#leading-samples").text_content()
    page.reload()
    assert (page.locator("#result").text_content(), page.locator("#leading-samples").text_content()) == shown


def standing(page: Page) -> list[str]:
    """What a page says of the run's standing: state, text, time, stages, bar, why a chart is empty."""
    parts = (
        "#status .badge, #progress-text, #time-left, #stepper li, #attempt-note, figure .plot-empty, .tile .note, #log-list li"
    )
    texts = page.evaluate(f"[...document.querySelectorAll('{parts}')].map(e => (e.dataset.at ?? '') + e.textContent.trim())")
    return [
        *texts,
        page.evaluate("document.querySelector('#progress-bar').className + document.querySelector('#progress-bar').value"),
    ]


def is_as_after_a_reload(page: Page) -> None:
    """The page comes to say what one says that is opened anew; however long its stream and the scripts of both take."""
    fresh = page.context.new_page()
    fresh.goto(page.url)
    wait_until(lambda: standing(page) == standing(fresh), f"{standing(page)} as after a reload, {standing(fresh)}")
    fresh.close()
    page.reload()


def test_live_is_as_after_a_reload_in_every_state(page, studio):
    run_id = studio.launch(reward={"source": "rating"}, weights={"preset": "within_prompt", "lambda": 0.3})
    page.goto(f"/runs/{run_id}")
    expect(page.locator("#progress-text")).to_have_text("Waits for a worker")
    expect(page.locator("figure[data-chart=wins]")).to_contain_text("Needs a reward model or a judge")
    writer = Writer(studio)
    writer.begin(run_id)
    expect(page.locator("#progress-text")).to_have_text("Starting")
    is_as_after_a_reload(page)
    writer.prepare()
    expect(page.locator("#stepper li[data-stage=train]")).to_have_attribute("data-at", "now")
    is_as_after_a_reload(page)
    writer.steps(1, 7)
    with studio.database.writing() as session:
        attempts.lose(session, run_id, writer.token, "The machine went dark.")
    expect(page.locator("#attempt-note")).to_contain_text("Attempt 2. Attempt 1 was lost: The machine went dark.")
    expect(page.locator("#log-list")).to_contain_text("Interrupted: The machine went dark.")
    is_as_after_a_reload(page)
    writer.run_id = ""
    writer.begin(run_id)
    outcome = OutcomeReached(outcome=Outcome.FAILED, reason="Out of memory.", remedy="Lower it.", retry=False)
    writer.say({"kind": "stage", "stage": "prepare"})
    with studio.database.writing() as session:
        attempts.finish(session, run_id, writer.token, outcome)
    expect(page.locator("#stepper li[data-stage=prepare]")).to_have_attribute("data-at", "failed")
    expect(page.locator("#time-left")).to_contain_text("took")
    expect(page.locator("#attempt-note")).to_contain_text("Attempt 2. Attempt 1 was lost")
    expect(page.locator("figure[data-chart=kl]")).to_contain_text("The run ended before its first evaluation.")
    expect(page.get_by_role("link", name="Clone", exact=True)).to_have_class("button primary")
    is_as_after_a_reload(page)


def test_cancelling_a_queued_run_leaves_no_wait_behind(page, studio):
    run_id = studio.launch()
    page.goto(f"/runs/{run_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#progress-text")).to_have_text("Never started")
    is_as_after_a_reload(page)


def test_nothing_held_out_leaves_the_evaluation_open(page, studio):
    writer = Writer(studio, num_steps=5)
    writer.begin(studio.launch(evaluation={"share": 0}))
    writer.prepare()
    writer.steps(1, 5)
    writer.finish()
    page.goto(f"/runs/{writer.run_id}")
    evaluate = page.locator("#stepper li[data-stage=evaluate]")
    expect(evaluate).to_have_attribute("data-at", "skipped")
    expect(evaluate).to_contain_text("Nothing is held out")
    expect(page.locator("figure[data-chart=kl]")).to_contain_text("held-out share is 0")


def test_a_step_that_is_not_there_is_refused_in_a_sentence(page, studio, complaints):
    writer = Writer(studio, num_steps=5)
    writer.begin(studio.launch())
    writer.prepare()
    writer.steps(1, 5)
    for step, sentence in (("9999", "logged yet; choose a step from 1 to 5"), ("", "whole number from 1 to 5")):
        answer = page.request.get(f"/runs/{writer.run_id}/weights?step={step}", headers={"hx-request": "true"})
        assert sentence in answer.text()
    writer.finish()
    answer = page.request.get(f"/runs/{writer.run_id}/weights?step=9999")
    assert "This run has no step 9\u202f999; choose one from 1 to 5." in answer.text()


def test_one_batch_shows_the_weights_of_a_step(page, writer):
    open_run(page, writer, "weights")
    page.locator("#batch-step").fill("3")
    page.get_by_role("button", name="Show its weights").click()
    rows = page.locator("#batch-rows tbody tr")
    expect(rows).to_have_count(16)
    expect(rows.first).to_contain_text("chosen")
    expect(page.locator("#batch-rows")).to_contain_text("Step 3 trained on batch 2 of the plan")


def test_a_click_on_a_chart_opens_that_step(page, writer):
    open_run(page, writer)
    canvas = canvas_of(page, "loss")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.5})
    expect(page.locator("#batch-rows tbody tr")).to_have_count(16)


def test_a_long_run_is_thinned_and_still_moves(page, studio):
    writer = Writer(studio, num_steps=5000)
    writer.begin(studio.launch())
    writer.prepare(weights=False)
    writer.steps(1, 2400)
    open_run(page, writer)
    first = points(page, "loss")
    assert 500 <= first <= 700
    assert points(page, "heatmap") <= 240
    writer.steps(2401, 2450)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", str(first + 50))
    expect(page.locator("#progress-text")).to_have_text("Step 2\u202f450 of 5\u202f000")


# How many pixel columns lie between the first and the last that the line crosses, and the longest run of columns without it.
LINE = """canvas => {
  const { width, height } = canvas, data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const isColoured = (x, y) => {
    const [r, g, b, a] = data.slice(4 * (y * width + x), 4 * (y * width + x) + 4);
    return a > 128 && Math.max(r, g, b) - Math.min(r, g, b) > 60;
  };
  const rows = Array.from({ length: height }, (_, y) => y).filter(y => y > height / 5); // below the legend
  const hit = Array.from({ length: width }, (_, x) => rows.some(y => isColoured(x, y)));
  const first = hit.indexOf(true), last = hit.lastIndexOf(true);
  let longest = 0, run = 0;
  for (let x = first; x <= last; x++) { run = hit[x] ? 0 : run + 1; longest = Math.max(longest, run); }
  return [last - first, longest];
}"""


def test_a_loss_that_is_not_finite_is_a_gap_in_the_line(page, studio):
    """Twenty steps, of which the tenth's loss is not a number: the line ends at the ninth and goes on at the eleventh."""

    def draw(bad: int) -> tuple[int, int]:
        writer = Writer(studio, num_steps=20)
        writer.begin(studio.launch())
        writer.prepare()
        for step in range(1, 21):
            event = writer.step(step)
            writer.say({**event, "metrics": {**event["metrics"], **({"loss": float("nan")} if step == bad else {})}})
        open_run(page, writer)
        assert points(page, "loss") == 20
        across, longest = canvas_of(page, "loss").evaluate(LINE)
        return across, longest

    across, longest = draw(bad=0)
    assert longest <= 2
    across, longest = draw(bad=10)
    assert longest > across / 19


def test_charts_go_along_tokens_are_smoothed_zoomed_and_saved(page, writer):
    open_run(page, writer, "learning")
    pictures = [picture(page, "loss")]
    for act in (
        lambda: page.get_by_label("Along").select_option("tokens"),
        lambda: page.get_by_label("Smoothing").fill("0.9"),
        lambda: page.get_by_label("Logarithmic").check(),
        lambda: (page.locator("#chart-from").fill("5"), page.locator("#chart-from").blur()),
    ):
        act()
        before = pictures[-1]
        page.locator("figure[data-chart=loss]").scroll_into_view_if_needed()  # what is out of sight is drawn later
        page.wait_for_function("old => document.querySelector('[data-chart=loss] canvas').toDataURL() !== old", arg=before)
        pictures.append(picture(page, "loss"))
    page.get_by_label("Loss: full screen, picture, numbers").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Numbers (CSV)").click()
    lines = saved.value.path().read_text(encoding="utf-8").splitlines()
    assert lines[0] == "step,loss,eval/loss"
    assert [line.partition(",")[0] for line in lines[1:4]] == ["0", "1", "2"]


def test_a_range_that_is_drawn_over_a_chart_is_shown_by_all(page, writer):
    open_run(page, writer, "learning")
    box = canvas_of(page, "loss").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, y, steps=4)
    page.mouse.up()
    first, last = (int(page.locator(f"#chart-{end}").input_value()) for end in ("from", "to"))
    assert 3 < first < last < 20
    page.get_by_role("button", name="All steps").click()
    expect(page.locator("#chart-from")).to_have_value("")


def test_samples_are_sorted_filtered_and_shown_step_to_step(page, writer):
    writer.evaluate(50)  # the first of three is answered kindly by then
    open_run(page, writer, "samples")
    samples = page.locator("#sample-groups article:visible")
    expect(samples).to_have_count(3)
    page.get_by_label("Sorted by").select_option("-gain")
    gains = samples.evaluate_all("all => all.map(one => Number(one.dataset.gain))")
    assert gains == sorted(gains, reverse=True)
    page.get_by_label("Losses only").check()
    expect(samples).to_have_count(0)
    expect(page.locator("#sample-count")).to_have_text("0 of 3")
    page.get_by_label("Losses only").uncheck()
    page.get_by_label("Beside the policy").select_option("before")
    expect(samples.first).to_contain_text("Policy at step 0")
    expect(samples).to_have_count(3)


def test_the_weights_of_a_batch_are_drawn_against_length_and_reward(page, writer):
    open_run(page, writer, "weights")
    page.get_by_role("button", name="Show its weights").click()
    for what in ("tokens", "reward"):
        expect(page.locator(f"[data-scatter={what}][data-drawn='16'] canvas")).to_be_attached()
