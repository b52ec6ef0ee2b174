"""Sessions, database time and migrations, on SQLite and on PostgreSQL."""

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.domain.errors import Conflict, InvalidInput, StudioError, Unavailable
from app.settings import Settings
from app.store import migrations
from app.store.database import Database, now
from app.store.tables import Base, Model, Token, User
from tests.timing import Clock


def add_user(database: Database, user_id: str = "user_ada") -> None:
    with database.writing() as session:
        session.add(User(id=user_id, name=user_id, role="admin", created_at=now(session)))


def test_an_error_shows_nothing_of_the_row_it_is_about(database: Database) -> None:
    add_user(database)
    digest = "5ec4e7" * 10
    with database.writing() as session:
        session.add(User(id="user_ada", name=digest, role="admin", created_at=now(session)))
        with pytest.raises(IntegrityError) as refused:
            session.flush()
        session.rollback()
    assert digest not in str(refused.value)


def describe(connection: Connection) -> dict[str, dict[str, list[str]]]:
    """All that the database knows of its tables, but for the order of columns, which nothing reads."""
    found = inspect(connection)
    return {
        table: {
            what: sorted(map(without_identities, read(table)))
            for what, read in {
                "columns": found.get_columns, "foreign keys": found.get_foreign_keys, "indexes": found.get_indexes,
                "unique": found.get_unique_constraints, "checks": found.get_check_constraints,
                "key": lambda table: [found.get_pk_constraint(table)],
            }.items()
        }
        for table in found.get_table_names()
    }  # fmt: skip


def without_identities(described: Mapping[str, Any]) -> str:
    told = {
        name: str(value) if name != "dialect_options" else {k: str(v) for k, v in value.items()}
        for name, value in described.items()
    }
    return repr(sorted(told.items()))


def test_a_new_database_is_as_one_that_has_gone_through_all_steps(either_settings: Settings) -> None:
    database = Database(either_settings)
    with database.rebuilding() as connection:
        migrations.upgrade(connection)
        new = describe(connection)
        everything = MetaData()
        everything.reflect(connection)
        everything.drop_all(connection)
        first = ScriptDirectory.from_config(migrations.config()).get_base()
        assert first is not None
        migrations.upgrade(connection, first)
        assert migrations.find_revision(connection) == first
        assert describe(connection) != new
        migrations.upgrade(connection)
        assert describe(connection) == new
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert database.is_current()
    database.close()


def test_migrating_twice_and_from_many_sides_at_once_is_harmless(either_settings: Settings) -> None:
    databases = [Database(either_settings) for _ in range(4)]
    errors: list[BaseException] = []

    def migrate(database: Database) -> None:
        try:
            database.migrate()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    databases[0].migrate()
    assert errors == []
    assert databases[0].is_current()
    for database in databases:
        database.close()


def test_the_steps_are_read_as_alembic_reads_them(either_database: Database) -> None:
    script = ScriptDirectory.from_config(migrations.config())
    assert migrations.head() == script.get_current_head()
    assert migrations.list_revisions() == {step.revision for step in script.walk_revisions()}
    with either_database.reading() as session:
        assert (
            migrations.find_revision(session.connection())
            == MigrationContext.configure(session.connection()).get_current_revision()
        )


def test_a_migration_that_is_cut_off_leaves_nothing_and_can_be_run_again(either_settings: Settings) -> None:
    database = Database(either_settings)

    def migrate_and_die() -> None:
        with database.rebuilding() as connection:
            migrations.upgrade(connection)
            assert inspect(connection).has_table("runs")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate_and_die()
    with database.engine.connect() as connection:
        assert not inspect(connection).has_table("runs")
    assert not database.is_current()
    database.migrate()
    assert database.is_current()
    database.close()


def test_a_database_of_a_newer_version_is_refused_with_a_sentence(either_settings: Settings) -> None:
    database = Database(either_settings)
    database.migrate()
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '20991231_from_the_future'"))
    with pytest.raises(StudioError, match="newer VAR Studio"):
        database.migrate()
    assert not database.is_current()
    database.close()


def test_a_reading_session_can_not_write(either_database: Database) -> None:
    def write() -> None:
        with either_database.reading() as session:
            session.add(User(id="u", name="u", role="member", created_at=datetime.now(UTC)))
            session.commit()

    with pytest.raises(DBAPIError, match=r"readonly|read-only"):
        write()
    add_user(either_database)  # the connection goes back as it was


def test_a_writing_session_commits_on_success_and_rolls_back_on_an_error(either_database: Database) -> None:
    def fail() -> None:
        with either_database.writing() as session:
            session.add(User(id="lost", name="lost", role="member", created_at=now(session)))
            session.flush()
            raise RuntimeError

    add_user(either_database)
    with pytest.raises(RuntimeError):
        fail()
    with either_database.reading() as session:
        assert session.scalars(select(User.id)).all() == ["user_ada"]


def test_what_waits_for_the_commit_leaves_after_it_and_never_after_a_rollback(database: Database) -> None:
    rung: list[str] = []
    database.bell.ring = rung.append  # type: ignore[method-assign]

    def fail() -> None:
        with database.writing() as session:
            database.bell.ring_after_commit(session, "run_lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.writing() as session:
        database.bell.ring_after_commit(session, "run_kept")
        database.bell.ring_after_commit(session, "run_kept")
        assert rung == []
    assert rung == ["run_kept"]


def test_foreign_keys_are_enforced(either_database: Database) -> None:
    def write() -> None:
        with either_database.writing() as session:
            at = now(session)
            session.add(Model(id="m", owner_id="nobody", name="", kind="", source="", path="", facts={}, created_at=at))

    with pytest.raises((IntegrityError, Conflict)):  # which PostgreSQL can't tell from a deletion at the same moment
        write()


def test_deleting_a_user_takes_the_tokens_along(either_database: Database) -> None:
    add_user(either_database)
    with either_database.writing() as session:
        session.add(Token(digest="d", user_id="user_ada", kind="api", created_at=now(session)))
    with either_database.writing() as session:
        session.execute(text("DELETE FROM users"))
        assert session.scalars(select(Token)).all() == []


def test_times_keep_their_moment_and_come_back_in_utc(either_database: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    with either_database.writing() as session:
        abroad = moment.astimezone(datetime.now().astimezone().tzinfo)
        session.add(User(id="u", name="u", role="member", created_at=abroad))
    with either_database.reading() as session:
        assert session.scalars(select(User.created_at)).one() == moment
        assert abs(now(session) - datetime.now(UTC)) < timedelta(seconds=5)


def test_many_threads_write_without_an_error(database: Database) -> None:
    threads = [threading.Thread(target=lambda n=n: [add_user(database, f"u{n}-{i}") for i in range(20)]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert len(session.scalars(select(User.id)).all()) == 160


def test_a_locked_database_is_unavailable_with_a_sentence_and_readers_go_on(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    add_user(database)
    monkeypatch.setattr("app.store.database.BUSY_SECONDS", 0.1)
    hurried = Database(settings)
    with database.writing() as session:
        session.execute(text("DELETE FROM users"))
        with hurried.reading() as reader:
            assert reader.scalars(select(User.id)).all() == ["user_ada"]
        with clock.within(2), pytest.raises(Unavailable, match="busy"):
            add_user(hurried, "late")
    add_user(hurried, "in_time")
    hurried.close()


@pytest.fixture
def postgres(postgres_settings: Settings) -> Iterator[Database]:
    database = Database(postgres_settings)
    database.migrate()
    yield database
    database.close()


@pytest.mark.box
def test_a_writer_that_falls_silent_between_two_statements_loses_its_locks(
    postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose host is cut off: the server hears nothing of it for hours, and others need what it has locked."""
    add_user(postgres)
    monkeypatch.setattr("app.store.database.IDLE_SECONDS", 0.2)

    def go_on_too_late() -> None:
        with postgres.writing() as session:
            session.execute(text("UPDATE users SET name = 'silent'"))
            with postgres.writing() as other:  # waits for the row's lock
                other.execute(text("UPDATE users SET name = 'heard'"))
            session.execute(text("UPDATE users SET name = 'late'"))

    with pytest.raises(Unavailable):
        go_on_too_late()
    with postgres.reading() as session:
        assert session.scalars(select(User.name)).all() == ["heard"]


@pytest.mark.box
def test_a_reader_and_a_migration_may_be_silent_for_long(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.database.IDLE_SECONDS", 0.05)
    told = text("SHOW idle_in_transaction_session_timeout")
    with postgres.snapshot() as session:
        assert session.scalar(told) == "0"
    with postgres.rebuilding() as connection:
        assert connection.scalar(told) == "0"
    with postgres.writing() as session:
        assert session.scalar(told) == "50ms"
    with postgres.reading() as session:  # by the same connection, in all likelihood
        assert session.scalar(told) == "0"


@pytest.mark.box
def test_a_lost_connection_is_unavailable_and_the_next_one_works(postgres: Database) -> None:
    def lose_it() -> None:
        with postgres.writing() as session:
            number = session.scalar(text("SELECT pg_backend_pid()"))
            with postgres.writing() as other:
                other.execute(text(f"SELECT pg_terminate_backend({number})"))
            session.execute(text("SELECT 1"))

    with pytest.raises(Unavailable, match="can't be reached"):
        lose_it()
    add_user(postgres)


def test_a_database_that_is_not_there_is_unavailable(settings: Settings) -> None:
    nowhere = Database(settings.model_copy(update={"database_url": "postgresql://studio@127.0.0.1:1/none"}))
    with pytest.raises(Unavailable, match="can't be reached"):
        add_user(nowhere)
    nowhere.close()


@pytest.mark.box
def test_a_character_that_can_not_be_kept_is_the_users_fault(postgres: Database) -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        add_user(postgres, "a\0b")


def test_a_large_change_leaves_no_large_write_ahead_log(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.store.database.WAL_BYTES", 2**20)
    opened = Database(settings)
    opened.migrate()
    wal = settings.root / "studio.db-wal"
    with opened.writing() as session:
        session.execute(text("CREATE TABLE ballast (content BLOB)"))
        session.execute(text("INSERT INTO ballast VALUES (zeroblob(8000000))"))
    assert wal.stat().st_size > 8_000_000
    for _ in range(2):
        with opened.writing() as session:
            session.execute(text("INSERT INTO ballast VALUES (zeroblob(10))"))
    assert wal.stat().st_size <= 2**20
    opened.close()
