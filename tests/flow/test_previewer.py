"""The previewer against a stand-in child: real processes, a real database, whatever mishap."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.domain.preview.readings import ConversationReading, ConversationRequest
from app.domain.preview.weights import PreviewRequest
from app.services import previews, readings, scorings
from app.settings import Settings
from app.store import previews as store
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Model, Preview
from app.system import child
from tests.conftest import Library, make_library
from tests.flow.watching import launch
from tests.scored import make_facts
from tests.timing import Clock
from tests.waiting import END_SECONDS, wait_until
from tests.worker.workshop import make_tokenizer
from worker import tasks
from worker.supervision.previewer import PREVIEW_COMMAND, Previewer
from worker.supervisor import Supervisor

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_preview.py")))
Start = Callable[..., Previewer]


@pytest.fixture
def start(settings: Settings, files: Files) -> Iterator[Start]:
    """Start previewers; they are stopped and waited for at the end."""
    started: list[Previewer] = []

    def start_one(database: Database, **options: object) -> Previewer:
        name = f"worker-{len(started)}"
        previewer = Previewer(settings, database, files, name, **{"command": STAND_IN, **options})  # type: ignore[arg-type]
        started.append(previewer)
        previewer.start()
        return previewer

    yield start_one
    for previewer in started:
        previewer.stop()
    for previewer in started:
        previewer.join()


def make_scoring(database: Database, library: Library) -> str:
    with database.writing() as session:
        scoring = scorings.request(session, library.user.id, library.recipe())
        scoring.facts = make_facts().model_dump(mode="json")
        return scoring.id


@pytest.fixture
def scoring_id(database: Database, library: Library) -> str:
    return make_scoring(database, library)


def ask(database: Database, scoring_id: str, seed: int = 0, share: float = 0.5) -> str:
    with database.writing() as session:
        return previews.ask(session, "user_ada", scoring_id, PreviewRequest(noise_seed=seed, target_ess=share)).id


def read(database: Database, preview_id: str) -> Preview:
    with database.reading() as session:
        return store.get(session, "user_ada", preview_id)


def wait_for(database: Database, preview_id: str) -> Preview:
    wait_until(lambda: read(database, preview_id).finished_at is not None, f"the end of {preview_id}")
    return read(database, preview_id)


def child_of(preview: Preview) -> int:
    return int((preview.result or {})["num_batches"])


def is_dead(pid: int) -> bool:
    """Whether the process has ended; that nobody has reaped it yet doesn't matter."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"


def test_a_preview_is_answered_at_once_by_one_warm_child(either_database: Database, start: Start, clock: Clock) -> None:
    scoring_id = make_scoring(either_database, make_library(either_database))
    start(either_database)
    first = wait_for(either_database, ask(either_database, scoring_id))
    assert first.state == "done"
    with clock.within(1.5):
        second = wait_for(either_database, ask(either_database, scoring_id, share=0.3))
    assert child_of(first) == child_of(second)


def test_many_workers_answer_each_preview_once(either_database: Database, start: Start) -> None:
    scoring_id = make_scoring(either_database, make_library(either_database))
    asked = [ask(either_database, scoring_id, share=share / 20) for share in range(1, 13)]
    for _ in range(3):
        start(either_database)
    answered = [wait_for(either_database, one) for one in asked]
    assert {preview.state for preview in answered} == {"done"}


@pytest.mark.parametrize(
    ("mishap", "sentence"),
    [
        (1, "The previewing process ended without an answer (exit status 3), perhaps for memory"),
        (2, "The preview took too long and was stopped: ask for fewer"),
        (3, "The preview could not be computed: see the worker's log."),
        (4, "The preview's answer is too large: ask for fewer"),
        (5, "The scores are gone."),
    ],
)
def test_a_mishap_is_told_and_the_next_preview_is_answered(
    database: Database, start: Start, scoring_id: str, monkeypatch: pytest.MonkeyPatch, mishap: int, sentence: str
) -> None:
    monkeypatch.setattr(child, "MAX_REPLY_BYTES", 2**22)
    previewer = start(database, answer_seconds=1.5 if mishap == 2 else END_SECONDS)
    failed = wait_for(database, ask(database, scoring_id, mishap))
    previewer._answer_seconds = END_SECONDS
    assert failed.state == "failed"
    assert (failed.error or {})["detail"].startswith(sentence)
    assert (failed.error or {})["code"] == ("conflict" if mishap == 5 else "unavailable")
    assert wait_for(database, ask(database, scoring_id)).state == "done"


def test_a_child_that_was_killed_while_idle_is_made_anew(database: Database, start: Start, scoring_id: str) -> None:
    start(database)
    first = child_of(wait_for(database, ask(database, scoring_id)))
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: is_dead(first))
    assert child_of(wait_for(database, ask(database, scoring_id, share=0.3))) != first


def test_a_child_that_leaves_just_then_is_replaced(database: Database, start: Start, scoring_id: str) -> None:
    start(database, command=(*STAND_IN, "leave", str(database.settings.root / "left")))
    assert wait_for(database, ask(database, scoring_id)).state == "done"


def test_a_preview_under_way_goes_back_when_the_worker_stops(database: Database, start: Start, scoring_id: str) -> None:
    previewer = start(database)
    asked = ask(database, scoring_id, 2)
    wait_until(lambda: read(database, asked).state == "computing")
    previewer.stop()
    previewer.join()
    assert read(database, asked).state == "waiting"


def test_a_preview_of_what_was_deleted_ends_its_child_and_the_next_is_answered(
    database: Database, start: Start, scoring_id: str
) -> None:
    previewer, hanging = start(database), ask(database, scoring_id, seed=2)
    wait_until(lambda: read(database, hanging).state == store.COMPUTING and previewer._child, "the preview under way")
    child = previewer._child
    assert child is not None
    with database.writing() as session:
        session.delete(session.get_one(Preview, hanging))  # as its scoring, its model or its data set does
    wait_until(lambda: not child.alive, "the child's end")
    assert wait_for(database, ask(database, scoring_id)).state == store.DONE


def test_a_long_preview_keeps_its_lease(
    database: Database, start: Start, scoring_id: str, settings: Settings, files: Files
) -> None:
    settings.heartbeat_seconds = 0.3
    start(database)
    asked = ask(database, scoring_id, 6)
    first = wait_until(lambda: read(database, asked).lease_expires_at, "the lease")
    wait_until(lambda: (read(database, asked).lease_expires_at or first) > first, "its renewal")
    with database.writing() as session:
        assert previews.begin(session, files, "thief", 1.0) is None
    assert wait_for(database, asked).worker_id == "worker-0"


def test_a_hint_of_a_preview_warms_the_child(database: Database, start: Start) -> None:
    tasks.previews_hinted.clear()
    previewer = start(database, hinted=tasks.previews_hinted)
    tasks.hinted.clear()
    tasks.wake("preview")
    wait_until(lambda: previewer._child is not None)
    assert not tasks.hinted.is_set()


def test_a_reading_is_made_by_the_real_process(database: Database, start: Start, files: Files, library: Library) -> None:
    folder = files.model_dir(library.policy.id)
    make_tokenizer(chat=True).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with database.writing() as session:
        session.get_one(Model, library.policy.id).source = "run"
        request = ConversationRequest(model_id=library.policy.id, messages=readings.EXAMPLE)
        asked = readings.ask(session, files, library.user.id, request).id
    start(database, command=PREVIEW_COMMAND)
    wait_until(lambda: find(database, asked).finished_at is not None, f"the end of {asked}")
    reading = readings.read_answer(find(database, asked))
    assert isinstance(reading, ConversationReading)
    assert reading.view is not None
    assert "".join(token.text for token in reading.view.runs[1].head) == readings.EXAMPLE[-1].content


def find(database: Database, preview_id: str) -> Preview:
    with database.reading() as session:
        return session.get_one(Preview, preview_id)


def test_the_supervisor_answers_previews_while_its_slot_is_busy(
    database: Database, files: Files, settings: Settings, library: Library, scoring_id: str
) -> None:
    busy = (sys.executable, str(Path(__file__).with_name("stand_in.py")), "steps=1000", "pause=0.05")
    supervisor = Supervisor(settings, database, files, runner_command=busy, preview_command=STAND_IN, gpus=[])
    launch(database, library)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        assert wait_for(database, ask(database, scoring_id)).state == "done"
    finally:
        supervisor.stop()
        thread.join(END_SECONDS)
    assert not thread.is_alive()
