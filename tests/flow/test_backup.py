"""A backup taken while a run goes on and users write: restored elsewhere, the run resumes from its checkpoint and succeeds."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.services import accounts
from app.services.keeping import backups, restores
from app.settings import Settings
from app.store.database import Database
from app.store.files.archive import verify
from app.store.files.files import Files
from app.store.tables import Attempt, JournalEntry, Token, User
from tests.conftest import create_postgres_database, make_library
from tests.filled import read_all
from tests.flow.watching import assert_whole, fetch, launch, read_journal, wait_for_end
from tests.waiting import END_SECONDS, wait_until
from worker.supervisor import Supervisor

STEPS = 120
RUNNER = (sys.executable, str(Path(__file__).with_name("stand_in_keeping.py")), f"steps={STEPS}", "pause=0.05", f"wait@{STEPS}")


@contextmanager
def supervising(settings: Settings, database: Database, name: str) -> Iterator[None]:
    changed = settings.model_copy(update={"worker_name": name, "grace_seconds": 5.0})
    supervisor = Supervisor(changed, database, Files(settings.root), runner_command=RUNNER, gpus=[])
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield
    finally:
        supervisor.stop()
        thread.join(END_SECONDS)
        assert not thread.is_alive()


@contextmanager
def writing_users(database: Database) -> Iterator[None]:
    """People come all the time, each with a token in the same transaction."""
    is_over = threading.Event()

    def write() -> None:
        number = 0
        while not is_over.wait(0.01):
            number += 1
            with database.writing() as session:
                accounts.create_token(session, accounts.create_user(session, f"user-{number}", "member"), "t")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def count(database: Database, table: type[User] | type[Token]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.box
def test_a_studio_is_backed_up_while_it_works_and_its_run_goes_on_where_it_is_restored(
    either_database: Database, files: Files, postgres_url: str, tmp_path: Path
) -> None:
    run_id = launch(either_database, make_library(either_database))
    with supervising(either_database.settings, either_database, "old"), writing_users(either_database):
        wait_until(lambda: fetch(either_database, run_id).step > 30)
        manifest = backups.back_up(either_database, files, tmp_path / "studio.tar")
        assert fetch(either_database, run_id).state == "running"
        (files.run_dir(run_id) / "go").touch()
        assert manifest.missing == []
        assert verify(tmp_path / "studio.tar") == manifest
        run = wait_for_end(either_database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 1)  # nothing was disturbed
    assert count(either_database, User) > manifest.tables["users"].num_rows  # people came in the meantime

    # from one kind of database to the other
    url = create_postgres_database(postgres_url) if either_database.is_sqlite else ""
    quick = {"heartbeat_seconds": 0.5, "lease_seconds": 3.0, "poll_seconds": 0.5}
    there = Settings(_env_file=None, data_dir=tmp_path / "new", database_url=url, **quick)
    restores.restore(there, tmp_path / "studio.tar")
    new = Database(there)
    try:
        assert {name: len(rows) for name, rows in read_all(new).items()} == {
            name: member.num_rows for name, member in manifest.tables.items()
        }
        assert count(new, Token) == count(new, User) - 1  # one moment: nobody came without a token, but the library's owner
        assert_is_beginning(new, either_database, run_id)
        with supervising(there, new, "new"):
            run = wait_for_end(new, run_id)
        assert (run.state, run.attempt) == ("succeeded", 2)
        assert_whole(new, run_id, STEPS)
        (resumed,) = read_journal(new, run_id, "resume")
        assert resumed.payload["step"] >= 25
        assert_first_attempt_was_lost(new, run_id)
    finally:
        new.close()


def assert_is_beginning(new: Database, old: Database, run_id: str) -> None:
    """The journal that was restored is, word for word, how the old one begins."""
    with new.reading() as session:
        restored = [(entry.seq, entry.kind, entry.payload, entry.at) for entry in session.scalars(of_run(run_id))]
    with old.reading() as session:
        whole = [(entry.seq, entry.kind, entry.payload, entry.at) for entry in session.scalars(of_run(run_id))]
    assert 30 < len(restored) < len(whole)
    assert restored == whole[: len(restored)]


def of_run(run_id: str):  # type: ignore[no-untyped-def]
    return select(JournalEntry).where(JournalEntry.run_id == run_id).order_by(JournalEntry.seq)


def assert_first_attempt_was_lost(database: Database, run_id: str) -> None:
    with database.reading() as session:
        first, second = session.scalars(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number))
    assert (first.outcome, first.worker_id) == ("lost", "old")
    assert (second.outcome, second.worker_id) == ("succeeded", "new")
