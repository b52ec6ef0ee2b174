"""The playground in Chromium: words come while they are said, a reload shows the same, a stop is heard; two users at once."""

import pytest
from playwright.sync_api import expect

from app.domain.answering.chat import Answered, Ended, Loading, Spoken
from app.services import accounts, attempts
from app.services.answering import chats
from app.store.tables import Chat, Worker
from tests.waiting import wait_until


def begin(studio, worker="worker"):
    with studio.database.writing() as session:
        return chats.begin(session, worker, 300.0)


def tell(studio, claim, *events):
    with studio.database.writing() as session:
        assert chats.tell(session, claim, events)


def whole(model: int, text: str, end: str = "finished") -> Answered:
    return Answered(model=model, text=text, end=end, num_tokens=9, num_prompt_tokens=5, first_seconds=0.2, seconds=0.4)


def test_two_models_speak_side_by_side_and_a_reload_shows_the_same(page, studio):
    page.goto(f"/playground?models={studio.policy.id}")
    page.get_by_label("Beside it").select_option(studio.policy.id)
    page.get_by_label("Prompt").fill("Where is my parcel?")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.locator("#doing")).not_to_be_empty()
    claim = wait_until(lambda: begin(studio), "the chat")
    tell(studio, claim, Loading(name="Small"))
    expect(page.locator("#doing")).to_contain_text("Loading “Small”")
    tell(studio, claim, Spoken(model=0, text="It is "))
    first = page.locator('[data-model="0"]')
    expect(first).to_have_text("It is ")
    expect(page.locator("#doing")).to_be_empty()
    tell(studio, claim, Spoken(model=0, text="<b>here</b>."))
    expect(first).to_have_text("It is <b>here</b>.")
    page.reload()
    expect(first).to_have_text("It is <b>here</b>.")
    tell(studio, claim, Spoken(model=0, text="It was", is_whole=True))
    expect(first).to_have_text("It was")
    page.get_by_role("button", name="Stop").click()
    wait_until(lambda: is_to_stop(studio, claim.chat_id), "the stop")
    tell(studio, claim, whole(0, "It was here.", "stopped"), Ended(state="stopped"))
    expect(page.get_by_text("stopped", exact=False).first).to_be_visible()
    expect(page.get_by_role("link", name="Go on from here")).to_be_visible()
    page.get_by_role("button", name="Again, with seed 1").click()
    expect(page.locator("#answers")).to_have_attribute("data-state", "waiting")
    with studio.database.writing() as session:
        session.query(Chat).delete()


def is_to_stop(studio, chat_id: str) -> bool:
    with studio.database.reading() as session:
        return session.get_one(Chat, chat_id).stop_requested_at is not None


@pytest.fixture
def two(browser, studio):
    """The playground of two users, each in a browser of their own, and a worker that has room."""
    with studio.database.writing() as session:
        attempts.beat(session, "room-for-chats", hostname="h", devices=[], slots=2, load={"lease_seconds": 600.0})
        people = [accounts.create_user(session, name) for name in ("ann-chats", "ben-chats")]
        cookies = [accounts.redeem_login(session, accounts.create_login_link(session, user)) for user in people]
    contexts = [browser.new_context(base_url=studio.url) for _ in people]
    pages = []
    for context, cookie in zip(contexts, cookies, strict=True):
        context.set_default_timeout(60_000)
        context.add_cookies([{"name": "studio_session", "value": cookie, "url": studio.url}])
        pages.append(context.new_page())
    yield pages
    for context in contexts:
        context.close()
    with studio.database.writing() as session:
        session.query(Chat).delete()
        session.query(Worker).filter(Worker.id == "room-for-chats").delete()


def test_two_users_at_once_read_their_own_answers_alone_and_who_waits_is_told(two, studio):
    for page, prompt in zip(two, ("Ann asks this.", "Ben asks that."), strict=True):
        page.goto(f"/playground?models={studio.policy.id}")
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_label("Prompt").press("Control+Enter")
        expect(page.locator("#answers")).to_have_attribute("data-state", "waiting")
    ann, ben = two
    expect(ben.locator("#doing")).to_contain_text("Another chat is before this one: users are answered in turn.")
    first = wait_until(lambda: begin(studio), "the first chat")
    tell(studio, first, Spoken(model=0, text="To Ann. "))
    second = wait_until(lambda: begin(studio, "another"), "the second chat")
    tell(studio, second, Spoken(model=0, text="To Ben. "))
    for page, claim, text in ((ann, first, "To Ann. "), (ben, second, "To Ben. ")):
        assert page.url.endswith(claim.chat_id)
        expect(page.locator('[data-model="0"]')).to_have_text(text)
    tell(studio, second, Spoken(model=0, text="More."), whole(0, "To Ben. More."), Ended(state="done"))
    tell(studio, first, Spoken(model=0, text="More."), whole(0, "To Ann. More."), Ended(state="done"))
    for page, own, other, hidden in ((ann, "Ann", "Ben", second), (ben, "Ben", "Ann", first)):
        expect(page.locator('[data-model="0"]')).to_have_text(f"To {own}. More.")
        expect(page.get_by_role("link", name="Go on from here")).to_be_visible()
        page.goto("/playground")
        expect(page.get_by_text(f"{own} asks th")).to_be_visible()
        assert f"{other} asks" not in page.content()
        answer = page.goto(f"/playground/{hidden.chat_id}")
        assert answer is not None
        assert answer.status == 404
