"""Renaming on a page, and a deletion that can't be: what stands in its way is listed in place."""

import os
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.studio import WebStudio

SHOTS = os.environ.get("SHOTS")


def shoot(page: Page, name: str) -> None:
    """A picture to look at, where SHOTS names a folder."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def test_a_run_is_renamed_on_its_page(page: Page, studio: WebStudio) -> None:
    run_id = studio.launch(name="First try")
    page.goto(f"/runs/{run_id}")
    shoot(page, "rename-closed")
    page.locator("summary", has_text="Rename").click()
    page.get_by_label("New name").fill("Kinder help desk")
    shoot(page, "rename-open")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Kinder help desk")


def test_what_uses_a_model_is_listed_where_it_was_to_be_removed(page: Page, studio: WebStudio, complaints: list[str]) -> None:
    run_id = studio.launch(name="Needs the model")
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto("/models")
    page.locator("tr", has=page.get_by_role("link", name=studio.policy.name)).get_by_role("button", name="Remove").click()
    page.locator("#confirm-yes").click()
    notice = page.locator("#notice")
    expect(notice.get_by_role("link", name="Needs the model")).to_have_attribute("href", f"/runs/{run_id}")
    shoot(page, "in-use")
    assert page.url.endswith("/models")
    assert [text for text in complaints if "409" not in text] == []
    complaints.clear()
