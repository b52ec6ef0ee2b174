"""The playground in Chromium: words come while they are said, a reload shows the same, a stop is heard."""

from playwright.sync_api import expect

from app.domain.answering.chat import Answered, Ended, Loading, Spoken
from app.services.answering import chats
from app.store.tables import Chat
from tests.waiting import wait_until


def begin(studio):
    with studio.database.writing() as session:
        return chats.begin(session, "worker", 300.0)


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
