"""A20: a migration that is killed, and a web or worker that meets a database of another version."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from app.settings import Settings
from app.store import migrations
from app.store.database import Database
from tests import warm
from tests.conftest import CHECKOUT
from tests.faults.house import WORK
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until

KILLED = Path(__file__).with_name("killed_migration")


@pytest.fixture
def empty(either_settings: Settings) -> Iterator[Database]:
    """A database without tables."""
    database = Database(either_settings)
    yield database
    database.close()


def environment(database: Database, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    own = {"STUDIO_DATA_DIR": str(database.settings.root), "STUDIO_DATABASE_URL": database.settings.database_url}
    own["STUDIO_BROKER_URL"] = "redis://127.0.0.1:1/0" if database.settings.database_url else ""
    return {**kept, "PYTHONPATH": str(CHECKOUT), **own, **more}


def upgrade(database: Database, die_at: int | None = None) -> subprocess.CompletedProcess[str]:
    """`varstudio db upgrade`, killed before its `die_at`-th change."""
    more = {"PYTHONPATH": f"{KILLED}:{CHECKOUT}", "DIE_AT": str(die_at)} if die_at is not None else {}
    command = [sys.executable, "-m", "app.cli", "db", "upgrade"]
    with warm.forking():  # but for the one that dies: it finds other modules
        return subprocess.run(
            command, env=environment(database, **more), cwd=CHECKOUT, capture_output=True, text=True, check=False
        )


def tables(database: Database) -> dict[str, list[str]]:
    inspector = inspect(database.engine)
    found = {name: sorted(column["name"] for column in inspector.get_columns(name)) for name in inspector.get_table_names()}
    return {name: columns for name, columns in found.items() if name != "alembic_version"}


def first_revision() -> str:
    from alembic.script import ScriptDirectory

    return str(ScriptDirectory.from_config(migrations.config()).get_base())


@pytest.mark.parametrize("die_at", [4, *(pytest.param(number, marks=pytest.mark.soak) for number in (1, 12))])
def test_a_killed_migration_leaves_the_old_tables_and_can_be_run_again(empty: Database, die_at: int) -> None:
    killed = upgrade(empty, die_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert tables(empty) == {}
    done = upgrade(empty)
    assert done.returncode == 0, done.stderr
    assert empty.is_current()


def make_old(database: Database) -> None:
    """The tables of the first version, with a user in them."""
    database.hints.prepare()
    with database.rebuilding() as connection:
        migrations.upgrade(connection, first_revision())
        connection.execute(text("INSERT INTO users (id, name, role, created_at) VALUES ('u', 'Ada', 'admin', '2026-01-01')"))


@pytest.mark.parametrize("die_at", [2, pytest.param(9, marks=pytest.mark.soak)])
def test_an_upgrade_that_is_killed_half_way_leaves_the_old_version_and_its_data(empty: Database, die_at: int) -> None:
    make_old(empty)
    before = tables(empty)
    killed = upgrade(empty, die_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert tables(empty) == before
    with empty.reading() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == first_revision()
        assert session.scalar(text("SELECT count(*) FROM users")) == 1
    done = upgrade(empty)
    assert done.returncode == 0, done.stderr
    assert empty.is_current()
    with empty.reading() as session:
        assert session.scalar(text("SELECT name FROM users")) == "Ada"


def start_worker(database: Database, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        command = [sys.executable, str(WORK), "steps=5"]
        return warm.Popen(
            command, env=environment(database, STUDIO_WORKER_NAME="late"), cwd=CHECKOUT, stdout=output, stderr=output
        )


def test_code_that_meets_a_database_of_a_newer_version_refuses_with_a_sentence(empty: Database, tmp_path: Path) -> None:
    """The web, the worker, `varstudio up` and `varstudio db upgrade`."""
    empty.migrate()
    with empty.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '20991231_from_the_future'"))
    port = str(free_port())
    commands = {
        "web": [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", port],
        "worker": [sys.executable, str(WORK)],
        "up": [sys.executable, "-m", "app.cli", "up", "--port", port],
        "db": [sys.executable, "-m", "app.cli", "db", "upgrade"],
    }
    for name, command in commands.items():
        with warm.forking():
            done = subprocess.run(
                command, env=environment(empty), cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=120
            )
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode not in (0, None), name
        assert "newer VAR Studio" in said, (name, said)
        assert "start the newer version" in said, (name, said)
        assert "Traceback" not in said, (name, said)
    with empty.reading() as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "20991231_from_the_future"


def test_a_worker_waits_with_a_sentence_for_the_tables_of_its_version(empty: Database, tmp_path: Path) -> None:
    """On PostgreSQL the web or the migration step makes them; on SQLite the worker does it itself."""
    make_old(empty)
    log = tmp_path / "worker.log"
    worker = start_worker(empty, log)
    try:
        if not empty.is_sqlite:
            wait_until(lambda: "waiting for the web" in log.read_text(), what="the worker's sentence")
            time.sleep(2.5)
            assert worker.poll() is None
            assert log.read_text().count("waiting for the web") == 1
            empty.migrate()
        wait_until(empty.is_current, what="the migration")

        def has_beaten() -> bool:
            with empty.reading() as session:
                return session.scalar(text("SELECT count(*) FROM workers")) == 1

        wait_until(has_beaten, what="the worker's first beat")
        assert "Traceback" not in log.read_text()
    finally:
        worker.terminate()
        worker.wait(END_SECONDS)


def test_the_web_brings_an_old_database_up_to_date_when_it_starts(empty: Database, tmp_path: Path) -> None:
    make_old(empty)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    with (tmp_path / "web.log").open("wb") as log:
        web = warm.Popen(command, env=environment(empty), cwd=CHECKOUT, stdout=log, stderr=log)
    try:
        wait_until(empty.is_current, what="the migration by the web")
    finally:
        web.terminate()
        web.wait(END_SECONDS)
    with empty.reading() as session:
        assert session.scalar(text("SELECT name FROM users")) == "Ada"
