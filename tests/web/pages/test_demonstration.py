"""The demonstration begun in the browser: one child at a time, its progress on the first page, and an end with the web."""

import os
import sys

import pytest

from app.services.accounts import authenticate
from app.web.pages.demonstration import Demonstration
from tests.waiting import wait_until
from tests.web.conftest import make_app, opened

MAKING = """
import os, pathlib, sys, time
print("policy: step 3/12  loss 2.0  1 s\\nreward: step 12/12  loss 0.1  2 s", flush=True)
folder = pathlib.Path(sys.argv[1])
(folder.parent / "asked").write_text(os.environ["STUDIO_URL"] + " " + os.environ["STUDIO_TOKEN"])
while not (folder.parent / "go").exists(): time.sleep(0.01)
print(*(folder.parent / "go").read_text().splitlines(), sep="\\n", flush=True)
sys.exit(1 if "disk" in (folder.parent / "go").read_text() else 0)
"""


@pytest.fixture
def fresh(tmp_path, migrated_sqlite):
    """A studio where nothing was done yet, whose demonstration is the child above."""
    app = make_app(tmp_path, migrated_sqlite)
    app.state.demonstration = Demonstration(app.state.settings, [sys.executable, "-c", MAKING])
    with opened(app, tmp_path) as studio:
        yield studio


def place(studio, name):
    return studio.settings.root / "demonstration" / name


def let_go(studio, words):
    place(studio, "words").write_text(words)
    place(studio, "words").rename(place(studio, "go"))  # whole, as soon as it is there
    wait_until(lambda: studio.app.state.demonstration.look().state != "making", "the end of the child")


def test_it_is_begun_once_shows_its_progress_and_fills_the_form(fresh):
    browser = fresh.browser()
    assert "Try with the demonstration’s data" in browser.get("/").text
    for _ in range(2):
        assert browser.post("/demonstration").headers["location"] == "/"
    wait_until(lambda: place(fresh, "asked").is_file() and place(fresh, "asked").read_text(), "the child's note")
    url, token = place(fresh, "asked").read_text().split()
    assert url == f"http://127.0.0.1:{fresh.settings.port}"
    with fresh.database.reading() as session:
        assert authenticate(session, token, "api")[1].expires_at is not None
    page = browser.get("/home").text
    assert '<progress max="1" value="0.25" aria-label="Pretraining the policy">' in page
    assert "Try with" not in page
    let_go(fresh, "ready dataset=data_1&weights.lambda=0.4")
    page = browser.get("/").text
    assert page.count('href="/runs/new?dataset=data_1&amp;weights.lambda=0.4"') == 2
    assert "Everything is here." in page


def test_what_went_wrong_is_said_and_it_can_be_begun_again(fresh):
    browser = fresh.browser()
    browser.post("/demonstration")
    let_go(fresh, "The <disk> is full.")
    page = browser.get("/").text
    assert "The &lt;disk&gt; is full. The whole log is" in page
    assert "Try with the demonstration’s data" in page


def test_it_ends_with_the_web(fresh):
    fresh.browser().post("/demonstration")
    demonstration = fresh.app.state.demonstration
    process = demonstration._process
    wait_until(lambda: place(fresh, "asked").is_file(), "the child's note")
    demonstration.close()
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    demonstration.close()


def test_where_it_can_not_be_made_a_sentence_stands_for_the_button(fresh, monkeypatch):
    monkeypatch.setattr("app.web.pages.demonstration.find_untrainable", lambda: "torch is not installed here. To train here: …")
    browser = fresh.browser()
    page = browser.get("/").text
    assert "torch is not installed here." in page
    assert "Try with" not in page
    refused = browser.post("/demonstration")
    assert (refused.status_code, "torch is not installed here." in refused.text) == (409, True)
    shared = Demonstration(fresh.settings.model_copy(update={"store_url": "s3://bucket"}))
    assert "object store" in shared.obstacle
