"""A real Chromium against a real web process; the worker is played by the test. Nothing here needs torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app import assets
from tests.browser.studio import WebStudio, start_studio

# The same engine without a screen's worth of processes, which costs less than half the processor time; else the whole browser.
CHROMIUM = next(filter(Path.exists, map(Path, ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium"))), None)
FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
# Every refusal of the content security policy, of any document, is written to the console in these words.
REFUSED = "Content Security Policy"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module: as long as it lives, Playwright's event loop runs in this thread."""
    if CHROMIUM is None:
        pytest.skip("no browser: install Debian's package chromium-headless-shell, or chromium")
    if not assets.installed():
        pytest.skip("the pages' JavaScript is not installed: python -m app.assets")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebStudio]:
    studio = start_studio(tmp_path_factory.mktemp("studio"))
    yield studio
    studio.stop()


@pytest.fixture
def context(browser: Browser, studio: WebStudio) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=studio.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    yield context
    context.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the page complains of; a test that expects a complaint takes it out."""
    return []


@pytest.fixture
def page(context: BrowserContext, complaints: list[str]) -> Iterator[Page]:
    """A page that fails its test by any error in the console, any refusal of the content policy, and any dialog."""
    page = context.new_page()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type == "error" or REFUSED in message.text else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    yield page
    assert complaints == []
