"""From an empty studio to a judged comparison of two runs, in real Chromium, with a real worker: which clicks, how long.

make bench ARGS="tests/browser/test_first_comparison.py -s"      the demonstration as it is; else a shrunken one
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from app.settings import Settings
from app.store.database import Database
from app.store.files.files import DEMONSTRATION
from tests import warm
from tests.browser.studio import CHECKOUT, sign_up, start_web
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS

MOST_CLICKS = 10
TEMPERATURES = "0.2, 1"
SIZES = [pytest.param("shrunken"), pytest.param("real", marks=pytest.mark.bench)]


@dataclass
class Clicks:
    """What was clicked, and when."""

    began_at: float = field(default_factory=time.monotonic)
    done: list[tuple[str, float]] = field(default_factory=list)

    def click(self, what: str, place: Locator) -> None:
        place.click()
        self.note(what)

    def note(self, what: str) -> None:
        self.done.append((what, time.monotonic() - self.began_at))

    def tell(self) -> str:
        return "\n".join(f"{number:2} {seconds:7.1f} s  {what}" for number, (what, seconds) in enumerate(self.done, 1))


@dataclass
class EmptyStudio:
    """A web and a worker over a folder in which nothing is yet."""

    url: str
    cookie: str
    milliseconds: float  # that a step may take


@pytest.fixture(params=SIZES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmptyStudio]:
    is_real = request.param == "real"
    port = free_port()
    settings = Settings(_env_file=None, data_dir=tmp_path / "var", port=port)
    database = Database(settings)
    database.migrate()
    _, cookie = sign_up(database)
    database.close()
    if not is_real:
        make_small(settings.root / DEMONSTRATION / "seed-0")
    worker = start_worker(settings, subprocess.Popen if is_real else warm.Popen)
    web = start_web(settings.data_dir, port)
    yield EmptyStudio(f"http://127.0.0.1:{port}", cookie, (3600.0 if is_real else END_SECONDS) * 1000)
    for process in (web, worker):
        process.terminate()
    for process in (web, worker):
        process.wait(END_SECONDS)


def make_small(folder: Path) -> None:
    """The demonstration's data and models from a hundredth of what they are made of, as if they had been made whole."""
    folder.parent.mkdir(parents=True)
    making = warm.Popen(
        [sys.executable, "-m", "worker.demonstration", str(folder), "--scale", "0.01"], cwd=CHECKOUT, env=environ()
    )
    assert making.wait(END_SECONDS) == 0
    made = json.loads((folder / "made.json").read_text())
    (folder / "made.json").write_text(json.dumps({**made, "scale": 1.0}))


def start_worker(settings: Settings, popen: Any) -> "subprocess.Popen[bytes]":
    told = {"STUDIO_DATA_DIR": str(settings.data_dir), "STUDIO_POLL_SECONDS": "0.5", "STUDIO_RUNNER_THREADS": "1"}
    with (settings.root / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "worker.main"]
        process: subprocess.Popen[bytes] = popen(
            command, cwd=CHECKOUT, env=environ(**told), stdout=log, stderr=log, start_new_session=True
        )
    return process


def environ(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    return {**kept, "PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": "", **changes}


@pytest.fixture
def first_page(browser, empty: EmptyStudio) -> Iterator[Page]:
    context = browser.new_context(base_url=empty.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(empty.milliseconds)
    context.add_cookies([{"name": "studio_session", "value": empty.cookie, "url": empty.url}])
    page = context.new_page()
    page.goto("/")
    yield page
    context.close()


def test_a_few_clicks_lead_from_an_empty_studio_to_a_judged_comparison_of_two_runs(first_page: Page, empty: EmptyStudio) -> None:
    page, clicks, patient = first_page, Clicks(), {"timeout": empty.milliseconds}
    clicks.click("Try with the demonstration’s data", page.get_by_role("button", name="Try with the demonstration’s data"))
    ready = page.locator(".notice.good")
    expect(ready).to_contain_text("Everything is here.", **patient)
    clicks.click("Launch the run: the form is filled", ready.get_by_role("link", name="Launch the run"))
    clicks.click("Temperature λ", page.get_by_label("Temperature λ"))
    page.get_by_label("Temperature λ").fill(TEMPERATURES)
    clicks.click("Launch the runs", page.locator("#launch-button"))
    page.wait_for_url("**/sweeps/*", **patient)
    clicks.click("Compare their answers", page.locator("#compare"))
    clicks.click("Answer and compare", page.get_by_role("button", name="Answer and compare"))
    page.wait_for_url("**/comparisons/comparison_*", **patient)
    expect(page.get_by_role("heading", name="What it says")).to_be_visible(**patient)
    clicks.note(page.locator(".verdict-line").inner_text())
    sys.stdout.write(f"\n{clicks.tell()}\n")
    assert len(clicks.done) - 1 <= MOST_CLICKS
    assert "by Help desk reward" in page.locator(".verdict-line").inner_text() or page.get_by_text("Help desk reward").count()
    assert page.locator("#making").count() == 0
