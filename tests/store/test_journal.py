"""The journal: dense seqs whoever writes, and what is read back."""

import threading

from app.domain.events import LogWritten, StepLogged
from app.services import runs as services
from app.store import journal, runs
from app.store.database import Database
from tests.conftest import make_library


def launch(database: Database) -> str:
    library = make_library(database)
    with database.writing() as session:
        return services.launch(session, library.user.id, library.recipe()).id


def append(database: Database, run_id: str, *texts: str) -> None:
    with database.writing() as session:
        run = runs.lock_run(session, run_id)
        journal.append(session, run, [LogWritten(level="info", text=text) for text in texts])


def test_ten_writers_at_once_leave_no_gap_and_no_double(either_database: Database) -> None:
    run_id = launch(either_database)

    def write(writer: int) -> None:
        for place in range(10):
            append(either_database, run_id, f"{writer}-{place}-a", f"{writer}-{place}-b")

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with either_database.reading() as session:
        entries = journal.read(session, run_id, limit=1000)
        assert runs.watch(session, [run_id]) == {}
    assert [entry.seq for entry in entries] == list(range(1, 202))
    texts = [entry.payload["text"] for entry in entries if entry.kind == "log"]
    assert len(set(texts)) == 200
    for first, second in zip(texts[::2], texts[1::2], strict=True):
        assert first.replace("-a", "-b") == second, "events of one call stand together"


def test_reading_goes_on_after_a_seq_and_keeps_to_the_kinds(database: Database) -> None:
    run_id = launch(database)
    append(database, run_id, "one", "two", "three")
    with database.reading() as session:
        assert [entry.seq for entry in journal.read(session, run_id, after=2)] == [3, 4]
        assert [entry.seq for entry in journal.read(session, run_id, limit=2)] == [1, 2]
        assert [entry.payload["text"] for entry in journal.read(session, run_id, kinds=["log"])] == ["one", "two", "three"]
        newest = journal.latest(session, run_id, "log")
        assert newest is not None
        assert newest.payload == {"level": "info", "text": "three"}
        assert journal.latest(session, run_id, "sample") is None


def test_a_number_that_is_not_finite_is_kept_as_null(either_database: Database) -> None:
    run_id = launch(either_database)
    step = StepLogged(step=1, num_steps=2, epoch=0.5, batch=0, metrics={"loss": float("nan")}, histogram=[])
    with either_database.writing() as session:
        journal.append(session, runs.lock_run(session, run_id), [step])
    with either_database.reading() as session:
        entry = journal.latest(session, run_id, "step")
        assert entry is not None
        assert entry.payload["metrics"] == {"loss": None}
