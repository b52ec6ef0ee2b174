"""The launch form filled from a template, a file and a pasted recipe in a real browser, kept and exported again."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.services import recipe_templates
from tests.browser.studio import WebStudio

RECIPE = {"weights": {"preset": "reward_weighted", "lambda": 0.7}, "training": {"batch_size": 4}}


@pytest.fixture
def template(studio: WebStudio) -> str:
    with studio.database.writing() as session:
        return recipe_templates.create(session, studio.user.id, "Sevenths", RECIPE).id


def shown(page: Page) -> dict[str, str]:
    return {name: page.locator(f"#{name}").input_value() for name in ("weights-lambda", "training-batch_size", "dataset", "name")}


def test_a_template_fills_the_form_also_where_something_was_typed_at_its_address(
    page: Page, studio: WebStudio, template: str
) -> None:
    page.goto("/runs/new")
    page.select_option("#dataset", studio.dataset.id)
    page.fill("#name", "Of the day")
    for _ in range(2):  # the second time over what was typed after the first
        page.select_option("#start-from", f"template:{template}")
        page.click("#start-now")
        page.wait_for_url("**/runs/new?*template=*")
        expect(page.locator("#weights-lambda")).to_have_value("0.7")
        assert shown(page) == {
            "weights-lambda": "0.7", "training-batch_size": "4", "dataset": studio.dataset.id, "name": "Of the day",
        }  # fmt: skip
        expect(page.locator(".chips")).to_contain_text("4")
        expect(page.locator("#draft-note")).to_be_hidden()
        page.fill("#weights-lambda", "9")
        page.locator("#weights-lambda").blur()


def test_a_recipe_goes_out_as_a_file_and_back_in(page: Page, studio: WebStudio, tmp_path: Path) -> None:
    page.goto("/runs/new")
    page.select_option("#dataset", studio.dataset.id)
    page.select_option("#policy-model", studio.policy.id)
    page.fill("#weights-lambda", "0.35")
    page.fill("#name", "Gone out")
    page.click("#keep > summary")
    with page.expect_download() as download:
        page.click("#export-now")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert (path.name, json.loads(path.read_text())["weights"]["lambda"]) == ("Gone-out.json", 0.35)
    page.goto("/runs/new?clean=1")
    page.click("#import > summary")
    page.set_input_files("#import-file", path)
    page.click("#import-now")
    expect(page.locator("#start-note")).to_contain_text("All ")
    assert shown(page) == {"weights-lambda": "0.35", "training-batch_size": "8", "dataset": studio.dataset.id, "name": "Gone out"}


def test_what_is_typed_to_begin_from_computes_nothing_and_is_refused_with_a_sentence(
    page: Page, studio: WebStudio, complaints: list[str]
) -> None:
    asked: list[Any] = []
    page.goto("/runs/new")
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.click("#import > summary")
    page.fill("#import-text", '{"weights": {"lambda": 1}, "lora_rank": 8}')
    page.locator("#import-text").blur()
    page.wait_for_timeout(1200)  # longer than the form waits before it asks
    assert [url for url in asked if "/runs/new/" in url] == []
    page.click("#import-now")
    expect(page.locator("#start-note")).to_contain_text("lora_rank is no setting of a recipe; here it is policy.lora.rank.")
    expect(page.locator("#import-text")).to_be_visible()
    complaints[:] = [said for said in complaints if "422" not in said]


def test_the_form_is_kept_as_a_template_and_goes_on_as_it_was(page: Page, studio: WebStudio) -> None:
    page.goto("/runs/new")
    page.select_option("#dataset", studio.dataset.id)
    page.select_option("#policy-model", studio.policy.id)
    page.fill("#weights-lambda", "0.45")
    page.click("#keep > summary")
    page.fill("#template-name", "Kept in a browser")
    page.click("#keep-now")
    expect(page.locator("#start-note")).to_contain_text("Kept as a template: Kept in a browser")
    expect(page.locator("#weights-lambda")).to_have_value("0.45")
    page.click("#start-note a")
    expect(page.locator("h1")).to_have_text("Kept in a browser")
    expect(page.locator(".chips")).to_contain_text("0.45")
