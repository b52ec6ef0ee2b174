"""Chats: who may ask what, in whose turn they are answered, and what stays of them."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.answering.chat import Answered, Begun, ChatRequest, Ended, Spoken
from app.domain.errors import InvalidInput, NotFound, StudioError, TooManyRequests
from app.domain.problems import parse
from app.services.answering import chats
from app.services.answering.chats import MOST_WAITING, ChatClaim
from app.services.keeping import retention
from app.settings import Settings
from app.store.answering import chats as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Chat, ChatEntry, User, Worker
from tests.conftest import Library

HELLO = {"role": "user", "content": "Hello?"}
WHOLE = Answered(model=0, text="Hello!", end="finished", num_tokens=2, num_prompt_tokens=3, first_seconds=0.1, seconds=0.2)


def ask(database: Database, files: Files, user_id: str, **request: Any) -> str:
    with database.writing() as session:
        asked = ChatRequest.model_validate({"messages": [HELLO], **request})
        return chats.ask(session, user_id, asked).id


def begin(database: Database, worker: str = "worker") -> ChatClaim | None:
    with database.writing() as session:
        return chats.begin(session, worker, 30.0)


def tell(database: Database, claim: ChatClaim | None, *events: Any) -> bool:
    assert claim is not None
    with database.writing() as session:
        return chats.tell(session, claim, events)


@pytest.fixture
def bob(database: Database, library: Library) -> str:
    with database.writing() as session:
        session.add(User(id="user_bob", name="bob", role="member", created_at=now(session)))
    return "user_bob"


def test_what_is_told_is_kept_as_whole_answers_under_growing_numbers(database: Database, files: Files, library: Library) -> None:
    chat_id = ask(database, files, library.user.id, models=[library.policy.id])
    claim = begin(database)
    assert tell(database, claim, Spoken(model=0, text="Hel"))
    assert tell(database, claim, Spoken(model=0, text="lo\0"))
    with database.reading() as session:
        assert [entry.seq for entry in store.read_entries(session, chat_id, after=1)] == [2, 3]
        assert store.read_events(store.read_entries(session, chat_id))[-1] == Spoken(model=0, text="lo\ufffd")
    assert tell(database, claim, Spoken(model=0, text="!"), WHOLE)
    assert tell(database, claim, Ended(state="done"))
    with database.reading() as session:
        assert store.read_events(store.read_entries(session, chat_id)) == [Begun(worker="worker"), WHOLE, Ended(state="done")]
        assert [entry.seq for entry in store.read_entries(session, chat_id)] == [1, 4, 5]
        assert session.get_one(Chat, chat_id).state == "done"
    assert not tell(database, claim, Spoken(model=0, text="too late"))


def test_a_lost_claim_says_nothing_any_more_and_the_next_begins_anew(database: Database, files: Files, library: Library) -> None:
    chat_id = ask(database, files, library.user.id, models=[library.policy.id])
    first = begin(database, "first")
    tell(database, first, Spoken(model=0, text="Hel"))
    with database.writing() as session:
        session.get_one(Chat, chat_id).lease_expires_at = now(session) - timedelta(seconds=1)
    second = begin(database, "second")
    assert not tell(database, first, WHOLE)
    with database.writing() as session:
        assert first is not None
        assert not chats.renew(session, first, 30.0)
        assert not chats.give_back(session, first, "late")
    with database.reading() as session:
        assert store.read_events(store.read_entries(session, chat_id)) == [Begun(worker="second")]
    assert tell(database, second, WHOLE)


def test_users_take_turns(database: Database, files: Files, library: Library, bob: str) -> None:
    [first, second] = [ask(database, files, library.user.id, models=[library.policy.id]) for _ in range(2)]
    with database.writing() as session:
        request = ChatRequest.model_validate({"messages": [HELLO], "models": [library.policy.id]})
        kept = {"request": request.model_dump(mode="json"), "names": ["x"], "state": "waiting", "created_at": now(session)}
        session.add(Chat(id="chat_zzz", owner_id=bob, **kept))
    claims = [begin(database, f"worker-{n}") for n in range(3)]
    assert [claim.chat_id for claim in claims if claim] == [first, "chat_zzz", second]
    assert begin(database) is None


def test_a_paused_worker_answers_nothing(database: Database, files: Files, library: Library) -> None:
    ask(database, files, library.user.id, models=[library.policy.id])
    with database.writing() as session:
        at = now(session)
        session.add(Worker(id="worker", hostname="h", devices=[], slots=1, started_at=at, beat_at=at, paused_at=at))
    with database.reading() as session:
        assert not store.has_claimable(session, now(session), "worker")
    assert begin(database) is None
    assert begin(database, "other") is not None


def test_a_waiting_chat_stops_at_once_and_an_answered_one_is_asked_to(database: Database, files: Files, library: Library) -> None:
    user_id, models = library.user.id, [library.policy.id]
    chat_id = ask(database, files, user_id, models=models)
    with database.writing() as session:
        assert chats.request_stop(session, user_id, chat_id).state == "stopped"
    assert begin(database) is None
    answered = ask(database, files, user_id, models=models)
    claim = begin(database)
    with database.writing() as session:
        assert chats.request_stop(session, user_id, answered).stop_requested_at is not None
    with database.writing() as session:
        assert claim is not None
        assert chats.give_back(session, claim, "A run has taken the device.")
    with database.writing() as session:
        assert chats.request_stop(session, user_id, answered).state == "stopped"


def test_nobody_else_sees_or_stops_a_chat(database: Database, files: Files, library: Library, bob: str) -> None:
    chat_id = ask(database, files, library.user.id, models=[library.policy.id])
    for verb in (chats.request_stop, chats.delete, store.get_chat):
        with database.writing() as session, pytest.raises(NotFound, match="There is no chat"):
            verb(session, bob, chat_id)
    with database.reading() as session:
        assert store.list_chats(session, bob) == []
        assert [chat.id for chat in store.list_chats(session, library.user.id)] == [chat_id]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"models": ["model_none"]}, "There is no model"),
        ({"models": ["run_none"]}, "There is no (training )?run"),
        ({"models": ["{reward}"]}, "reward model"),
        ({"models": ["{policy}"], "reward": "{policy}"}, "reward"),
    ],
)
def test_what_can_not_answer_is_refused(
    database: Database, files: Files, library: Library, request_: dict[str, Any], sentence: str
) -> None:
    ids = {"policy": library.policy.id, "reward": library.reward.id}
    filled = {
        key: [v.format(**ids) for v in value] if isinstance(value, list) else value.format(**ids)
        for key, value in request_.items()
    }
    with pytest.raises(StudioError, match=sentence):
        ask(database, files, library.user.id, **filled)


def test_too_many_waiting_chats_are_refused(database: Database, files: Files, library: Library) -> None:
    for _ in range(MOST_WAITING):
        ask(database, files, library.user.id, models=[library.policy.id])
    with pytest.raises(TooManyRequests, match="of your chats wait already"):
        ask(database, files, library.user.id, models=[library.policy.id])


def test_old_chats_go_and_those_that_wait_stay(database: Database, files: Files, library: Library, settings: Settings) -> None:
    old, new = (ask(database, files, library.user.id, models=[library.policy.id]) for _ in range(2))
    tell(database, begin(database), Ended(state="done"))
    with database.writing() as session:
        session.get_one(Chat, old).finished_at = now(session) - timedelta(days=31)
    assert retention.forget_old_chats(database, settings.model_copy(update={"chats_days": 0})) == 0
    assert retention.forget_old_chats(database, settings) == 1
    with database.reading() as session:
        assert [chat.id for chat in store.list_chats(session, library.user.id)] == [new]
        assert session.query(ChatEntry).count() == 0


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "messages"),
        ([{"role": "system", "content": "x"}], "The last message is the user's"),
        ([HELLO, HELLO], "User and assistant speak in turns"),
        ([HELLO, {"role": "assistant", "content": "x"}], "The last message is the user's"),
        ([{"role": "user", "content": " "}], "The last message is the user's"),
        ([HELLO, {"role": "system", "content": "x"}], "The system turn comes first"),
        (
            [HELLO, {"role": "assistant", "content": "x" * 60_000}, {"role": "user", "content": "x" * 60_000}],
            "at most 100,000 are",
        ),
    ],
)
def test_a_conversation_that_can_not_be_answered_is_refused(messages: list[dict[str, str]], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse(ChatRequest, {"models": ["model_x"], "messages": messages}, InvalidInput)
