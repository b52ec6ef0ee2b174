"""Three people vote blind in three browsers at once, by keys alone, while the web is killed between their votes."""

from collections import Counter

import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from app.services.acts import STUDIO
from app.services.comparing import vote_links
from app.store.comparing.votes import list_votes
from app.store.tables import Voter
from tests.browser.studio import start_studio, start_web
from tests.compared import Planted, plant_comparison

NUM_PROMPTS = 6
KEYS = ("ArrowLeft", "ArrowRight", "ArrowDown", "b", "ArrowLeft", "ArrowRight")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A studio whose web may be killed."""
    studio = start_studio(tmp_path_factory.mktemp("booth"))
    yield studio
    studio.stop()


@pytest.fixture(scope="module")
def comparison(own):
    models = (Planted("Kind", 1.0), Planted("Curt"))
    return plant_comparison(own.database, own.files, own.user.id, models, num_prompts=NUM_PROMPTS)


@pytest.fixture
def booths(browser, own, comparison):
    """A page for each of three people, come by one link."""
    with own.database.writing() as session:
        _, secret = vote_links.create_link(session, STUDIO, comparison)
    contexts = [browser.new_context(base_url=own.url) for _ in range(3)]
    pages = []
    for context, name in zip(contexts, ("Ann", "Ben", "Cleo"), strict=True):
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto(f"/vote/{secret}")
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Begin").click()
        expect_place(page, 0)
        pages.append(page)
    yield pages
    for context in contexts:
        context.close()


def expect_place(page, place):
    expect(page.locator(f"#ballot[data-place='{place}']")).to_be_attached(timeout=60_000)


def test_votes_are_neither_lost_nor_doubled_when_the_web_is_killed_between_them(own, comparison, booths):
    for place, key in enumerate(KEYS[:2]):
        for page in booths:
            page.keyboard.press(key)
            expect_place(page, place + 1)
    own.process.kill()
    own.process.wait()
    for page in booths:
        page.keyboard.press(KEYS[2])
        expect(page.locator("#unsaved")).to_be_visible(timeout=60_000)
    own.process = start_web(own.settings.data_dir, own.settings.port)
    for page in booths:
        expect_place(page, 3)  # sent again by itself
        expect(page.locator("#unsaved")).to_be_hidden()
    for place, key in enumerate(KEYS[3:], start=3):
        for page in booths:
            page.keyboard.press(key)
            expect_place(page, place + 1)
    for page in booths:
        expect(page.get_by_role("heading", name="That was all. Thank you!")).to_be_visible()
    with own.database.reading() as session:
        rows = list_votes(session, comparison.id)
        assert len(list(session.scalars(select(Voter)))) == 3
    assert len({(row.voter, row.prompt) for row in rows}) == len(rows) == 3 * NUM_PROMPTS
    for name in ("Ann", "Ben", "Cleo"):
        assert Counter(row.choice for row in rows if row.voter == name) == {"left": 2, "right": 2, "tie": 1, "both_bad": 1}
    booths[0].keyboard.press("u")
    expect_place(booths[0], NUM_PROMPTS - 1)
    booths[0].reload()
    expect_place(booths[0], NUM_PROMPTS - 1)
