"""Chats against a stand-in child: real processes, a real database, whatever mishap; and a run that wants the device."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.answering.chat import ChatRequest, gather
from app.services.answering import chats
from app.settings import Settings
from app.store.answering import chats as store
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Chat, Model
from app.system.child import ReplyLost
from tests.conftest import Library, make_library
from tests.flow.watching import launch
from tests.waiting import END_SECONDS, wait_until
from tests.worker.workshop import Workshop
from worker import tasks
from worker.supervision.chats import CHAT_COMMAND, Chats, Room
from worker.supervisor import Supervisor

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_chat.py")))
Start = Callable[..., Chats]


@pytest.fixture
def start(settings: Settings, files: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start threads that have room; they are stopped and waited for at the end."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    started: list[Chats] = []

    def start_one(database: Database, **options: object) -> Chats:
        name = f"worker-{len(started)}"
        thread = Chats(settings, database, files, name, **{"command": STAND_IN, **options})  # type: ignore[arg-type]
        started.append(thread)
        thread.give_room([Room()])
        thread.start()
        return thread

    yield start_one
    for thread in started:
        thread.stop()
    for thread in started:
        thread.join()


def ask(database: Database, files: Files, library: Library, seed: int = 0) -> str:
    asked = {"models": [library.policy.id], "messages": [{"role": "user", "content": "Who?"}], "sampling": {"seed": seed}}
    with database.writing() as session:
        return chats.ask(session, library.user.id, ChatRequest.model_validate(asked)).id


def read(database: Database, chat_id: str) -> Chat:
    with database.reading() as session:
        return session.get_one(Chat, chat_id)


def listen(database: Database, chat_id: str) -> list[str]:
    """The kinds of all that is told of a chat."""
    with database.reading() as session:
        return [entry.kind for entry in store.read_entries(session, chat_id)]


def wait_for(database: Database, chat_id: str) -> tuple[str, str]:
    """The chat's final state, and the answer or what is wrong."""
    wait_until(lambda: read(database, chat_id).finished_at is not None, f"the end of {chat_id}")
    with database.reading() as session:
        events = store.read_events(store.read_entries(session, chat_id))
    [answer] = gather(1, events)
    return read(database, chat_id).state, answer.text or getattr(events[-1], "detail", "")


def test_chats_are_answered_by_one_warm_child(either_database: Database, files: Files, start: Start) -> None:
    library = make_library(either_database)
    first = ask(either_database, files, library)
    start(either_database)
    answered = wait_for(either_database, first)
    assert answered[0] == "done"
    assert wait_for(either_database, ask(either_database, files, library, seed=7)) == answered
    assert listen(either_database, first) == ["begun", "answered", "ended"]


@pytest.mark.parametrize(
    ("seed", "sentence"),
    [
        (1, "The chatting process ended without an answer (exit status 3), perhaps for memory"),
        (2, "The chatting process said nothing for too long and was stopped"),
        (3, "The chatting process answered something that can't be read"),
    ],
)
def test_a_mishap_is_told_and_the_next_chat_is_answered(
    database: Database, files: Files, library: Library, start: Start, seed: int, sentence: str
) -> None:
    thread = start(database, silent_seconds=1.5 if seed == 2 else END_SECONDS)
    state, detail = wait_for(database, ask(database, files, library, seed))
    thread._silent_seconds = END_SECONDS
    assert state == "failed"
    assert detail.startswith(sentence)
    assert wait_for(database, ask(database, files, library))[0] == "done"


def test_a_child_that_leaves_just_then_is_replaced(database: Database, files: Files, library: Library, start: Start) -> None:
    start(database, command=(*STAND_IN, "leave", str(database.settings.root / "left")))
    assert wait_for(database, ask(database, files, library))[0] == "done"


def test_a_child_that_was_killed_is_made_anew(database: Database, files: Files, library: Library, start: Start) -> None:
    thread = start(database)
    first = wait_for(database, ask(database, files, library))
    child = thread._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    wait_until(lambda: not child.alive, "the end of the killed child")
    assert wait_for(database, ask(database, files, library)) != first


def test_a_stop_reaches_the_child_which_stays(database: Database, files: Files, library: Library, start: Start) -> None:
    thread = start(database)
    chat_id = ask(database, files, library, seed=4)
    wait_until(lambda: "spoken" in listen(database, chat_id), "the first words")
    child = thread._child
    with database.writing() as session:
        chats.request_stop(session, library.user.id, chat_id)
    assert wait_for(database, chat_id) == ("stopped", "I am stopped")
    assert wait_for(database, ask(database, files, library)) == ("done", f"I am {child.pid if child else 0}")


def test_a_chat_that_is_deleted_ends_and_the_child_stays(
    database: Database, files: Files, library: Library, start: Start
) -> None:
    thread = start(database)
    chat_id = ask(database, files, library, seed=4)
    wait_until(lambda: "spoken" in listen(database, chat_id), "the first words")
    child = thread._child
    with database.writing() as session:
        chats.delete(session, library.user.id, chat_id)
    assert wait_for(database, ask(database, files, library)) == ("done", f"I am {child.pid if child else 0}")


def test_a_model_that_was_deleted_meanwhile_is_told(database: Database, files: Files, library: Library, start: Start) -> None:
    chat_id = ask(database, files, library)
    with database.writing() as session:
        session.delete(session.get_one(Model, library.policy.id))
    start(database)
    assert wait_for(database, chat_id) == ("failed", f"“{library.policy.name}” was deleted meanwhile: choose another model.")


def test_a_chat_under_way_goes_back_when_the_worker_stops(
    database: Database, files: Files, library: Library, start: Start
) -> None:
    thread = start(database)
    chat_id = ask(database, files, library, seed=4)
    wait_until(lambda: "spoken" in listen(database, chat_id), "the first words")
    thread.stop()
    thread.join()
    assert read(database, chat_id).state == "waiting"
    assert listen(database, chat_id) == ["given_back"]


def test_without_room_a_chat_waits_and_a_killed_worker_is_followed_by_another(
    database: Database, files: Files, library: Library, start: Start, settings: Settings
) -> None:
    settings.lease_seconds, settings.heartbeat_seconds = 1.0, 0.3
    first = start(database)
    first.give_room([])
    chat_id = ask(database, files, library)
    with database.writing() as session:  # a worker takes it and is never heard of again
        assert chats.begin(session, "lost", 1.0) is not None
    start(database)
    assert wait_for(database, chat_id)[0] == "done"
    assert read(database, chat_id).worker_id == "worker-1"


def test_a_chat_is_not_begun_when_the_room_was_taken_while_it_was_looked_up(
    database: Database, files: Files, library: Library, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Event()

    def lose_the_room(*_: object) -> bool:
        thread.give_room([])
        looked.set()
        return True

    chat_id = ask(database, files, library)
    monkeypatch.setattr(store, "has_claimable", lose_the_room)
    thread = start(database)
    assert looked.wait(END_SECONDS)
    thread.stop()
    thread.join()
    assert listen(database, chat_id) == []


def test_a_chat_goes_back_when_the_room_was_taken_and_given_again_before_that_was_seen(
    database: Database, files: Files, library: Library, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, listen_to = threading.Event(), Chats._listen

    def listen_late(self: Chats, *of: Any) -> Iterator[Any]:
        try:
            yield from listen_to(self, *of)
        except ReplyLost:
            assert given.wait(END_SECONDS)
            raise

    monkeypatch.setattr(Chats, "_listen", listen_late)
    thread = start(database)
    chat_id = ask(database, files, library, seed=4)
    wait_until(lambda: "spoken" in listen(database, chat_id), "the first words")
    thread.give_room([])  # as for a run that can't be started
    thread.give_room([Room()])
    given.set()
    wait_until(lambda: read(database, chat_id).token > 1 or read(database, chat_id).finished_at, "the second begin")
    assert read(database, chat_id).state == "answering"


def test_a_chat_that_is_deleted_as_it_begins_is_let_be(
    database: Database,
    files: Files,
    library: Library,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build = chats.build_job

    def delete_first(session: Any, *of: Any) -> Any:
        with database.writing() as other:
            chats.delete(other, library.user.id, deleted)
        monkeypatch.setattr(chats, "build_job", build)
        session.rollback()  # a new snapshot
        return build(session, *of)

    deleted = ask(database, files, library)
    monkeypatch.setattr(chats, "build_job", delete_first)
    thread = start(database)
    wait_until(lambda: chats.build_job is build, "the deletion")
    assert wait_for(database, ask(database, files, library))[0] == "done"
    assert thread._child is not None
    assert "tried again" not in caplog.text


def test_a_hint_of_a_chat_warms_the_child(database: Database, start: Start) -> None:
    tasks.chats_hinted.clear()
    thread = start(database, hinted=tasks.chats_hinted)
    tasks.hinted.clear()
    tasks.wake("chat")
    wait_until(lambda: thread._child is not None)
    assert not tasks.hinted.is_set()


def test_a_run_takes_the_device_at_once_and_the_chat_begins_again_after_it(
    database: Database, files: Files, settings: Settings, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    runner = (sys.executable, str(Path(__file__).with_name("stand_in.py")), "steps=1000", "pause=0.05")
    supervisor = Supervisor(settings, database, files, runner_command=runner, chat_command=STAND_IN, gpus=[])
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        chat_id = ask(database, files, library, seed=4)
        wait_until(lambda: "spoken" in listen(database, chat_id), "the first words")
        child = supervisor._chats._child
        assert child is not None
        run_id = launch(database, library)
        wait_until(lambda: supervisor._running, "the run's begin")
        assert not child.alive
        wait_until(lambda: read(database, chat_id).state == "waiting", "the chat's return")
        attempt = next(iter(supervisor._running.values()))
        assert attempt.claim.run_id == run_id
        attempt.cancel()
        wait_until(lambda: "spoken" in listen(database, chat_id), "the first words, again")
    finally:
        supervisor.stop()
        thread.join(END_SECONDS)
    assert not thread.is_alive()


def test_a_chat_is_answered_by_the_real_process(
    database: Database, files: Files, library: Library, start: Start, tmp_path: Path
) -> None:
    with database.writing() as session:
        model = session.get_one(Model, library.policy.id)
        model.source, model.path = "folder", str(Workshop(tmp_path).policy("llama", chat=True))
    start(database, command=CHAT_COMMAND)
    state, text = wait_for(database, ask(database, files, library, seed=5))
    assert state == "done", text
    assert text
