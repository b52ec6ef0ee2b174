"""Chats over REST and in the browser: streamed while they are answered, stopped, asked again, gone on with, nobody else's."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.domain.answering.chat import Answered, Declined, Ended, Loading, Rewarded, Spoken
from app.domain.events import CheckpointSaved
from app.services.answering import chats
from app.services.answering.chats import ChatClaim
from app.store import journal
from app.store.database import now
from app.store.tables import Chat, Run, Worker
from app.web.stream import SharedReads
from tests.waiting import wait_until

HELLO = [{"role": "user", "content": "Hello <b>there</b>?"}]
BODY = {"models": ["model_policy"], "messages": HELLO, "sampling": {"max_new_tokens": 8, "seed": 4}}
FORM = {
    "model": ["model_policy", "", ""], "system": "Be kind.", "prompt": "Hello?", "temperature": "0.7", "top_p": "1",
    "max_new_tokens": "8", "seed": "4", "reward": "",
}  # fmt: skip


def whole(text: str = "Hello!", end: str = "finished") -> Answered:
    return Answered(model=0, text=text, end=end, num_tokens=3, num_prompt_tokens=5, first_seconds=0.25, seconds=0.1)


def begin(studio: Any) -> ChatClaim:
    with studio.database.writing() as session:
        claim = chats.begin(session, "worker", 30.0)
    assert claim is not None
    return claim


def tell(studio: Any, claim: ChatClaim, *events: Any) -> None:
    with studio.database.writing() as session:
        assert chats.tell(session, claim, events)


@pytest.fixture(autouse=True)
def ready(request: pytest.FixtureRequest) -> Iterator[None]:
    """A policy to ask; what a test leaves unanswered goes."""
    name = "server" if "server" in request.fixturenames else "studio"
    found = request.getfixturevalue(name)
    studio = getattr(found, "studio", found)
    studio.ingredients()
    yield
    with studio.database.writing() as session:
        session.query(Chat).delete()
        session.query(Worker).delete()


def ask(studio: Any, **changes: Any) -> str:
    """A chat as the page asks it, whose answer is the way to it."""
    answer = studio.browser().post("/playground", data={**FORM, **changes})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"].rsplit("/")[-1])


def read_stream(server: Any, method: str, path: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    headers = {"authorization": f"Bearer {server.studio.token}", **options.pop("headers", {})}
    with httpx.stream(method, f"{server.url}/api/v1/chats{path}", headers=headers, timeout=60, **options) as response:
        assert response.status_code == 200
        kind = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            if line.startswith("data: "):
                yield kind, json.loads(line[6:])


def test_an_answer_streams_while_it_is_made_and_is_replayed_as_it_was(server):
    studio, told = server.studio, []

    def work() -> None:
        claim = wait_until(lambda: _begin_or_none(studio), "a chat to answer")
        tell(studio, claim, Loading(name="Small"))
        for piece in ("Hel", "lo", "!"):
            tell(studio, claim, Spoken(model=0, text=piece))
        tell(studio, claim, whole())
        tell(studio, claim, Ended(state="done"))

    worker = threading.Thread(target=work)
    for one in read_stream(server, "POST", "", json=BODY):
        told.append(one)
        if len(told) == 1:  # not before it was told that nobody answers yet
            worker.start()
    worker.join()
    assert told[0] == ("waiting", {"detail": "No worker is running: start one (varstudio up does), and it answers."})
    kinds = [kind for kind, _ in told if kind != "waiting"]
    assert kinds[0] == "begun"
    assert kinds[-3:] == ["answered", "ended", "end"]
    chat_id = studio.client().get("/api/v1/chats").json()["items"][0]["id"]
    again = [kind for kind, _ in read_stream(server, "GET", f"/{chat_id}/stream")]
    assert again == ["waiting", "begun", "answered", "ended", "end"]
    late = read_stream(server, "GET", f"/{chat_id}/stream", headers={"last-event-id": "6"})
    assert [kind for kind, _ in late] == ["waiting", "ended", "end"]
    detail = studio.client().get(f"/api/v1/chats/{chat_id}").json()
    assert (detail["state"], detail["answers"][0]["text"], detail["models"]) == ("done", "Hello!", ["model_policy"])


def test_what_was_read_of_a_chat_is_read_again_as_its_pieces_go(studio):
    chat_id = ask(studio)
    claim = begin(studio)
    tell(studio, claim, Loading(name="Small"), Spoken(model=0, text="Hel"))

    async def read_twice() -> list[list[str]]:
        reads, found = SharedReads(studio.database), []
        for told in ((), (whole(), Ended(state="done"))):
            if told:
                tell(studio, claim, *told)
            found.append([entry.kind for entry in (await reads.read(chat_id, 0)).entries])
        return found

    assert asyncio.run(read_twice()) == [["begun", "loading", "spoken"], ["begun", "answered", "ended"]]


def _begin_or_none(studio: Any) -> ChatClaim | None:
    with studio.database.writing() as session:
        return chats.begin(session, "worker", 30.0)


def test_what_can_not_be_asked_is_refused_before_the_stream(studio, client):
    answer = client.post("/api/v1/chats", json={**BODY, "models": ["model_none"]})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    answer = client.post("/api/v1/chats", json={**BODY, "messages": []})
    assert answer.status_code == 422


def test_nobody_else_reads_stops_or_deletes_a_chat(studio, client, eve):
    chat_id = ask(studio)
    for path in ("", "/stream"):
        assert eve.get(f"/api/v1/chats/{chat_id}{path}").status_code == 404
    assert eve.post(f"/api/v1/chats/{chat_id}/stop").status_code == 404
    assert eve.delete(f"/api/v1/chats/{chat_id}").status_code == 404
    assert eve.get("/api/v1/chats").json()["items"] == []
    assert client.post(f"/api/v1/chats/{chat_id}/stop").json()["state"] == "stopped"
    assert client.delete(f"/api/v1/chats/{chat_id}").status_code == 204


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [
        ([], "No worker is running"),
        (["paused"], "Every worker is paused"),
        (["free"], "A worker takes it in a moment."),
        (["busy"], "The device is busy with run “Long”"),
    ],
)
def test_it_says_what_a_chat_waits_for(studio, client, workers, sentence):
    if "busy" in workers:
        run_id = studio.launch(name="Long")
        with studio.database.writing() as session:
            from app.services import attempts

            attempts.begin(session, "busy", 30.0)
        assert run_id
    with studio.database.writing() as session:
        at = now(session)
        for name in workers:
            paused_at = at if name == "paused" else None
            session.add(Worker(id=name, hostname="h", devices=[], slots=1, started_at=at, beat_at=at, paused_at=paused_at))
    assert client.get(f"/api/v1/chats/{ask(studio)}").json()["waiting_for"].startswith(sentence)


def test_users_who_wait_are_told_of_those_before_them(studio, client):
    ask(studio)
    with studio.database.writing() as session:
        at = now(session)
        session.add(Worker(id="free", hostname="h", devices=[], slots=1, started_at=at, beat_at=at))
    assert client.get(f"/api/v1/chats/{ask(studio)}").json()["waiting_for"].startswith("Another chat is before this one")


def test_the_page_shows_what_was_asked_and_said(studio):
    browser, chat_id = studio.browser(), ask(studio, prompt="Hello <b>there</b>?")
    page = browser.get(f"/playground/{chat_id}").text
    assert "Hello &lt;b&gt;there&lt;/b&gt;?" in page
    assert 'data-state="waiting"' in page
    claim = begin(studio)
    tell(studio, claim, Loading(name="Small"))
    assert "Loading “Small” into memory." in browser.get(f"/playground/{chat_id}/answers").text
    tell(studio, claim, Spoken(model=0, text="<i>Hel"))
    assert "&lt;i&gt;Hel" in browser.get(f"/playground/{chat_id}").text
    tell(studio, claim, whole("Hello!", "length"), Rewarded(model=0, reward=1.25), Ended(state="done"))
    part = browser.get(f"/playground/{chat_id}/answers").text
    for words in (
        "Hello!",
        "3 tokens, 20 a second, the first after 0.25 s, cut at the longest answer",
        "1.25",
        "Go on from here",
    ):
        assert words in " ".join(part.split())
    assert f"/playground/{chat_id}" in browser.get("/playground").text


def test_an_answer_is_gone_on_with_and_asked_again_with_the_next_seed(studio, client):
    browser, chat_id = studio.browser(), ask(studio)
    tell(studio, begin(studio), whole(), Ended(state="done"))
    form = browser.get(f"/playground?chat={chat_id}&answer=0").text
    assert ">Hello!</textarea>" in form
    following = ask(studio, turn=["Hello?", "Hello!"], prompt="And now?")
    said = client.get(f"/api/v1/chats/{following}").json()["messages"]
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user"]
    again = browser.post(f"/playground/{chat_id}/again").headers["location"].rsplit("/")[-1]
    assert client.get(f"/api/v1/chats/{again}").json()["request"]["sampling"]["seed"] == 5


def test_a_fault_is_a_sentence_above_the_form_which_keeps_what_was_typed(studio):
    for changes, sentence in (
        ({"model": ["", "", ""]}, "Choose a model that answers."),
        ({"prompt": " "}, "The last message is the user"),
        ({"temperature": "hot"}, "temperature"),
    ):
        answer = studio.browser().post("/playground", data={**FORM, "system": "Typed before.", **changes})
        assert answer.status_code == 422
        assert sentence in answer.text
        assert "Typed before." in answer.text


def test_a_declined_answer_and_a_failed_chat_are_sentences(studio):
    chat_id = ask(studio)
    claim = begin(studio)
    tell(studio, claim, Declined(model=0, detail="“Small” has no chat template."), Ended(state="failed", detail="It was lost."))
    page = studio.browser().get(f"/playground/{chat_id}").text
    assert "“Small” has no chat template." in page
    assert "It was lost." in page


def test_models_may_be_named_in_the_address(studio):
    page = studio.browser().get("/playground?models=model_policy,run_gone@20").text
    assert '<option value="model_policy" selected>' in page
    assert '<option value="run_gone@20" selected>' in page


def test_checkpoints_that_runs_keep_can_be_chosen(studio, client):
    run_id = studio.launch(name="Aligns")
    judge = studio.launch(name="Judges", method="reward_model")
    saved = [CheckpointSaved(step=step, name=f"step-{step:06}", size_bytes=1) for step in (20, 40)]
    with studio.database.writing() as session:
        for one in (run_id, judge):
            journal.append(session, session.get_one(Run, one), saved)
    page = studio.browser().get("/playground").text
    assert f'<option value="{run_id}@40">Aligns · step 40</option>' in page
    assert f'value="{run_id}@20"' in page
    assert f"{judge}@40" not in page
    asked = client.get(f"/api/v1/chats/{ask(studio, model=[f'{run_id}@40', 'model_policy'])}").json()
    assert asked["names"] == ["Aligns at step 40", "Small"]


def test_stop_and_delete_are_buttons(studio, client):
    browser, chat_id = studio.browser(), ask(studio)
    assert browser.post(f"/playground/{chat_id}/stop").headers["location"] == f"/playground/{chat_id}"
    assert client.get(f"/api/v1/chats/{chat_id}").json()["state"] == "stopped"
    assert browser.post(f"/playground/{chat_id}/delete").headers["location"] == "/playground"
    assert client.get(f"/api/v1/chats/{chat_id}").status_code == 404


def test_a_prompt_is_kept_in_a_new_prompt_set_or_in_one_that_there_is(studio, client):
    browser, first = studio.browser(), ask(studio)
    kept = browser.post(f"/playground/{first}/keep", data={"prompt_set": ""}, headers={"hx-request": "true"}).text
    assert "From the playground</a>, which has 1 now." in kept
    set_id = client.get("/api/v1/prompt-sets").json()["items"][0]["id"]
    assert f'<option value="{set_id}">' in browser.post(f"/playground/{first}/stop", follow_redirects=True).text
    second = ask(studio, prompt="And what now?")
    assert (
        "has 2 now"
        in browser.post(f"/playground/{second}/keep", data={"prompt_set": set_id}, headers={"hx-request": "true"}).text
    )
    [kept_set] = client.get("/api/v1/prompt-sets").json()["items"]
    assert (kept_set["name"], kept_set["num_prompts"]) == ("From the playground", 2)
    assert browser.post(f"/playground/{second}/keep", data={"prompt_set": kept_set["id"]}).status_code == 303
    assert client.get("/api/v1/prompt-sets").json()["items"] == [kept_set]
