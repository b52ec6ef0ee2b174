"""The queue, the workers and the card that steers a run, in a real browser: live, by keyboard, at 360 px, in both themes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.services import attempts
from app.store.database import now
from app.store.tables import Run, Worker
from tests.browser.studio import WebStudio

SHOTS = os.environ.get("SHOTS")
GPUS = [
    {"index": k, "name": "NVIDIA H200", "memory_bytes": 141 * 10**9, "memory_used_bytes": (k + 1) * 30e9,
     "utilization_percent": 87.0, "temperature_celsius": 61.0}
    for k in range(2)
]  # fmt: skip

LONG = {"lease_seconds": 3600.0}  # they beat once, and live for as long as a test takes


def shoot(page: Page, name: str) -> None:
    """A picture to look at, where SHOTS names a folder."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@pytest.fixture
def fleet(studio: WebStudio) -> Iterator[list[str]]:
    """Five queued runs and nothing else that waits; two workers, one with GPUs; the first run is running there."""
    with studio.database.writing() as session:
        for run in session.query(Run).where(Run.state == "queued"):
            run.state = "cancelled"
        for worker in session.query(Worker):
            session.delete(worker)
    run_ids = [studio.launch(name=f"Run {n} of the queue") for n in range(1, 7)]
    with studio.database.writing() as session:
        attempts.beat(session, "rack-1", hostname="rack-1.lab", devices=GPUS, slots=2, version="0.1.0", load=LONG)
        attempts.beat(session, "laptop", hostname="laptop", devices=[], slots=1, version="0.1.0", load=LONG)
        claim = attempts.begin(session, "rack-1", 600)
        assert claim is not None
        running = {"run_id": claim.run_id, "attempt": 1, "slots": [0], "pid": 1, "spool_lag_bytes": 0, "spool_lag_seconds": 0}
        load = {**LONG, "running": [running]}
        attempts.beat(session, "rack-1", hostname="rack-1.lab", devices=GPUS, slots=2, version="0.1.0", load=load)
    yield run_ids
    with studio.database.writing() as session:
        for run in session.query(Run).where(Run.id.in_(run_ids)):
            run.state, run.held_at, run.lease_expires_at = "cancelled", None, None
        for worker in session.query(Worker):
            session.delete(worker)


def excuse(complaints: list[str], status: int) -> None:
    """The browser writes a refusal to its console too; nothing else may be there."""
    assert [text for text in complaints if str(status) not in text] == []
    complaints.clear()


def settle(page: Page) -> None:
    """Until what was just swapped in listens."""
    page.wait_for_timeout(300)


def names(page: Page) -> list[str]:
    return page.locator("#queue section[aria-label='Waiting runs'] tbody td:first-child a").all_inner_texts()


def test_a_run_is_moved_paused_and_released_in_the_queue(page: Page, fleet: list[str]) -> None:
    page.goto("/queue")
    assert names(page) == [f"Run {n} of the queue" for n in range(2, 7)]
    page.get_by_label("To the front: Run 5 of the queue").click()
    expect(page.locator("#queue tbody tr").first).to_contain_text("Run 5")
    page.get_by_label("One up: Run 3 of the queue").click()
    expect(page.locator("#queue tbody tr").nth(1)).to_contain_text("Run 3")
    page.get_by_label("One down: Run 5 of the queue").click()
    expect(page.locator("#queue tbody tr").first).to_contain_text("Run 3")
    page.get_by_label("Priority of Run 6 of the queue").fill("9")
    page.keyboard.press("Enter")
    expect(page.locator("#queue tbody tr").first).to_contain_text("Run 6")
    page.locator(f"#pause-{fleet[1]}").click()
    expect(page.locator(f"#release-{fleet[1]}")).to_be_visible()
    shoot(page, "queue")
    assert names(page) == [f"Run {n} of the queue" for n in (6, 3, 5, 4)]
    page.locator(f"#release-{fleet[1]}").click()
    expect(page.locator(f"#pause-{fleet[1]}")).to_be_visible()
    assert "Run 2 of the queue" in names(page)


def test_a_change_that_is_refused_is_said_in_a_sentence(page: Page, fleet: list[str], complaints: list[str]) -> None:
    page.goto("/queue")
    page.get_by_label("Priority of Run 6 of the queue").evaluate("field => { field.max = ''; }")
    page.get_by_label("Priority of Run 6 of the queue").fill("500")
    page.keyboard.press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("A priority is a whole number from -100 to 100; 500 is not.")
    excuse(complaints, 422)


def test_the_workers_page_shows_who_runs_what_and_pauses_them(page: Page, fleet: list[str], studio: WebStudio) -> None:
    page.goto("/workers")
    box = page.locator("section.worker", has_text="rack-1")
    expect(box).to_contain_text("1 of 2 used")
    expect(box).to_contain_text("87")
    expect(box.get_by_role("link", name="Run 1 of the queue")).to_have_attribute("href", f"/runs/{fleet[0]}")
    box.get_by_role("button", name="Pause", exact=True).click()
    expect(box.locator(".badge")).to_contain_text("paused")
    shoot(page, "workers")
    box.get_by_role("button", name="Pause and give back").click()
    page.wait_for_timeout(3500)  # longer than a poll: the question must outlive it
    page.get_by_role("button", name="Give them back").click()
    expect(box).to_contain_text("saving to leave")
    box.get_by_role("button", name="Resume").click()
    expect(box.locator(".badge")).to_contain_text("alive")
    with studio.database.writing() as session:
        session.get_one(Worker, "laptop").left_at = now(session)
    laptop = page.locator("section.worker", has_text="laptop")
    expect(laptop.locator(".badge")).to_contain_text("gone")  # by itself
    laptop.get_by_role("button", name="Forget").click()
    expect(laptop).to_have_count(0)


def test_a_run_is_paused_and_sent_to_a_worker_on_its_own_page(
    page: Page, fleet: list[str], studio: WebStudio, complaints: list[str]
) -> None:
    page.goto(f"/runs/{fleet[3]}")
    head, card = page.locator("#status"), page.locator("#steering")
    page.get_by_text("Placement, priority and memory").click()
    expect(card).to_contain_text("Place 3 of 5 in the queue")
    card.get_by_role("button", name="To the front").click()
    expect(card).to_contain_text("Place 1 of 5")
    settle(page)
    card.get_by_label("Run it").select_option("onto:laptop")
    expect(card).to_contain_text("It waits for worker laptop.")
    with studio.database.writing() as session:
        session.get_one(Worker, "laptop").left_at = now(session)
    page.locator("h1").click()
    expect(card).to_contain_text("It waits for worker laptop, which is not alive: start it, or take the wish back.")
    shoot(page, "run-waits")
    settle(page)
    card.get_by_label("Run it").select_option("anywhere")
    expect(card).not_to_contain_text("waits for worker")
    settle(page)
    card.get_by_label("Run it").select_option("off:rack-1")
    expect(card.get_by_role("alert")).to_contain_text("No worker but rack-1 is alive")
    excuse(complaints, 409)
    page.reload()
    head.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("It is paused and begins when it is released.")
    expect(page.locator("#steering-line")).to_have_text("it is paused")
    head.get_by_role("button", name="Release").click()
    expect(head.get_by_role("button", name="Pause")).to_be_visible()


def test_a_running_run_is_asked_to_save_first(page: Page, fleet: list[str]) -> None:
    page.goto(f"/runs/{fleet[0]}")
    head, card = page.locator("#status"), page.locator("#steering")
    expect(card).to_contain_text("Paused, it saves first and goes on from there later.")
    head.get_by_role("button", name="Pause").click()
    expect(card).to_contain_text("saving, then paused")
    expect(head.get_by_role("button", name="Release")).to_be_visible()
    shoot(page, "run-pausing")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/queue", "/workers", "run"])
def test_the_pages_fit_a_telephone_in_both_themes(page: Page, fleet: list[str], path: str, theme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=theme)
    page.goto(f"/runs/{fleet[2]}" if path == "run" else path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(page, f"phone-{path.strip('/')}-{theme}")


def test_pages_that_ask_for_themselves_again_take_nobodys_place(page, studio):
    studio.launch()
    for path, part in (("/workers", "#workers"), ("/queue", "#queue"), ("/", "#standing")):
        page.goto(path)
        control = page.locator(f"{part} a, {part} summary").locator("visible=true").last
        control.focus()
        told = control.text_content()
        page.locator(part).evaluate("part => { part.dataset.old = 1; }")
        expect(page.locator(part)).not_to_have_attribute("data-old", "1")
        assert page.evaluate("document.activeElement.textContent") == told
