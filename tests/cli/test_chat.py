"""`varstudio chat`, against a real server whose worker is played by the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.cli import run
from app.domain.answering.chat import Answered, Declined, Ended, Loading, Rewarded, Spoken
from app.services.answering import chats
from tests.waiting import END_SECONDS, wait_until
from tests.web.conftest import server as server


@pytest.fixture
def ask(server, monkeypatch):
    server.studio.ingredients()
    monkeypatch.setenv("STUDIO_URL", server.url)
    monkeypatch.setenv("STUDIO_TOKEN", server.studio.token)
    return lambda *models: run(["chat", *(models or ("model_policy",)), "--prompt", "Hello?", "--seed", "3"])


@pytest.fixture
def seen(monkeypatch) -> threading.Event:
    """Set once somebody was told what a chat waits for."""
    seen, describe = threading.Event(), chats.describe_wait

    def note(*args):
        told = describe(*args)
        seen.set()
        return told

    monkeypatch.setattr(chats, "describe_wait", note)
    return seen


@contextmanager
def answering(server, *events, after: threading.Event | None = None) -> Iterator[None]:
    """A worker that answers the next chat so, `after` a sign where one is given."""

    def work() -> None:
        assert after is None or after.wait(END_SECONDS)

        def begin():
            with server.studio.database.writing() as session:
                return chats.begin(session, "worker", 300.0)

        claim = wait_until(begin, "a chat")
        for event in events:
            with server.studio.database.writing() as session:
                assert chats.tell(session, claim, [event])

    worker = threading.Thread(target=work)
    worker.start()
    yield
    worker.join()


def whole(model: int, text: str) -> Answered:
    return Answered(model=model, text=text, end="finished", num_tokens=11, num_prompt_tokens=5, first_seconds=0.25, seconds=0.5)


def test_one_model_is_printed_as_it_speaks_with_its_figures(server, ask, seen, capsys):
    told = [Loading(name="Small"), Spoken(model=0, text="Hel"), Spoken(model=0, text="lo"), whole(0, "Hello!")]
    with answering(server, *told, Rewarded(model=0, reward=1.5), Ended(state="done"), after=seen):
        assert ask() == 0
    said = capsys.readouterr()
    assert said.out.strip() == "Hello!"
    assert "11 tokens, 20 a second, the first after 0.25 s, reward 1.500, finished" in " ".join(said.err.split())
    assert "No worker is running" in said.err


def test_several_models_are_printed_one_after_the_other(server, ask, capsys):
    with answering(server, whole(1, "Second."), Declined(model=0, detail="It can't."), Ended(state="done")):
        assert ask("model_policy", "model_policy") == 0
    said = capsys.readouterr()
    assert said.out.split() == ["Small", "Small", "Second."]
    assert "It can't." in said.err


def test_a_failed_chat_and_one_that_nobody_answers_are_sentences(server, ask, capsys):
    with answering(server, Ended(state="failed", detail="The chatting process ended.")):
        assert ask() == 1
    assert "The chatting process ended." in capsys.readouterr().err
    with answering(server, Declined(model=0, detail="It can't."), Ended(state="done")):
        assert ask() == 1
    assert "No model has answered." in capsys.readouterr().err
    assert ask("model_none") == 1
    assert "There is no model" in capsys.readouterr().err


def test_chats_are_listed_read_stopped_and_deleted(server, ask, seen, capsys):
    with answering(server, whole(0, "Hello!"), Rewarded(model=0, reward=1.5), Ended(state="done"), after=seen):
        assert ask() == 0
    capsys.readouterr()
    assert run(["chats", "list", "--limit", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    chat_id = line.split()[0]
    assert line.split()[1:] == ["done", "Small", "Hello?"]
    assert run(["chats", "show", chat_id]) == 0
    assert capsys.readouterr().out.splitlines() == ["user", "  Hello?", "Small, reward 1.50", "  Hello!"]
    assert run(["chats", "show", chat_id, "--json"]) == 0
    assert f'"id": "{chat_id}"' in capsys.readouterr().out
    assert run(["chats", "stop", chat_id]) == 0
    assert run(["chats", "delete", chat_id]) == 0
    assert run(["chats", "show", chat_id]) == 1
    assert "There is no chat" in capsys.readouterr().err
