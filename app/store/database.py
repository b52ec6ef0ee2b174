"""The database: SQLite (WAL) by default, PostgreSQL by a setting; sessions, database time, migrations.

    with database.reading() as session: ...    # deferred, refuses to write
    with database.writing() as session: ...    # SQLite: BEGIN IMMEDIATE, so that no read is ever upgraded to a write

A session's `info` carries the bell and the hint queue, and what is to happen after the commit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from app.domain.errors import Conflict, InvalidInput, Unavailable
from app.settings import Settings
from app.store import migrations
from app.store.files.disk import DiskGauge
from app.store.files.files import make_root
from app.store.signals.after_commit import run_after_commit
from app.store.signals.bell import Bell
from app.store.signals.hints import HintQueue

BUSY_SECONDS = 15
IDLE_SECONDS = 20.0  # between two statements of a writer on PostgreSQL, which then takes it for lost
WAL_BYTES = 64 * 2**20  # the WAL file is cut to this when it begins anew
WRITE = {"studio_write": True}
QUIET: dict[str, Any] = {"hide_parameters": True}  # errors are printed and logged, and rows hold digests of secrets
# PostgreSQL's names for what two transactions do to each other at the same moment; on SQLite writers take turns.
RACES = {
    "23503": "What this is about was deleted, or began to be used, at the same moment: load the page again, then decide anew.",
    "23505": "The same was made by somebody else at the same moment: load the page again, and see whether it is still wanted.",
}
SQLITE_TRANSIENT = ("locked", "busy", "unable to open", "disk i/o error", "disk is full")


Row = TypeVar("Row")


class Database:
    """One engine per process, safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = create_engine_for(settings)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._read_engine = self.engine.execution_options(postgresql_readonly=True)
        self._write_engine = self.engine.execution_options(**WRITE)
        self.hints = HintQueue(settings)
        self.bell = Bell(settings, self)
        self.disk = DiskGauge(settings)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Provide a session that only reads, in one snapshot on SQLite."""
        with self._session(self._read_engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Provide a session that commits on success and rolls back on an error; what waits for the commit then leaves."""
        with self._session(self._write_engine) as session:
            yield session
            session.commit()
            run_after_commit(session)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Provide a session that reads one moment of the database for as long as it likes, while others write."""
        engine = self._read_engine
        if not self.is_sqlite:
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with self._session(engine) as session:
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        info = {"database": self, "bell": self.bell, "hints": self.hints, "disk": self.disk}
        with Session(engine, expire_on_commit=False, info=info) as session:
            try:
                session.connection()  # the transaction begins here, so a locked database is met before any work
                yield session
            except (DBAPIError, PoolTimeout, StaleDataError) as error:
                session.rollback()
                raise as_studio_error(error) from error
            except BaseException:
                session.rollback()
                raise

    def migrate(self) -> None:
        """Bring the tables to this version. A killed migration leaves nothing behind; run it again.

        Raises StudioError when the database was made by a newer version, Unavailable when it can't be reached.
        """
        self.hints.prepare()
        with self.rebuilding() as connection:
            migrations.upgrade(connection)

    def is_current(self) -> bool:
        """Return whether the tables are those of this version."""
        with self.reading() as session:
            return migrations.is_current(session.connection())

    def needs_migration(self) -> bool:
        """Return whether the tables are those of an older version, or not there yet.

        Raises StudioError when they are of a newer one, Unavailable when the database can't be reached.
        """
        with self.reading() as session:
            migrations.refuse_newer(session.connection())
            return not migrations.is_current(session.connection())

    @contextmanager
    def rebuilding(self) -> Iterator[Connection]:
        """One transaction that may change tables; no other can at the same time."""
        # Rebuilding a table in batch mode drops the old one: with foreign keys on, that would cascade into its children.
        engine = self._write_engine.execution_options(studio_rebuild=True)
        try:
            with engine.connect() as connection, connection.begin():
                if self.is_sqlite:
                    yield connection
                else:
                    connection.execute(text("SELECT pg_advisory_xact_lock(7246175)"))
                    with without_end(connection):
                        yield connection
        except (DBAPIError, PoolTimeout) as error:
            raise as_studio_error(error) from error

    def close(self) -> None:
        """Give back all connections."""
        self.hints.close()
        self.engine.dispose()


def create_engine_for(settings: Settings) -> Engine:
    """Return the engine with the connection settings both databases need."""
    url = make_url(settings.sqlalchemy_url)
    if url.get_backend_name() != "sqlite":
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        options = f"-c lock_timeout={BUSY_SECONDS}s -c timezone=UTC"
        arguments = {"connect_timeout": 5, "options": options}
        engine = create_engine(
            url, pool_pre_ping=True, max_overflow=30, pool_timeout=BUSY_SECONDS, connect_args=arguments, **QUIET
        )
        from app.store import postgres_timeout  # here, because psycopg's megabytes are for PostgreSQL alone

        event.listen(engine, "do_connect", postgres_timeout.connect)
        event.listen(engine, "begin", begin_postgres)
        return engine
    make_root(settings.root)
    engine = create_engine(url, pool_size=10, max_overflow=40, pool_timeout=BUSY_SECONDS, **QUIET)
    event.listen(engine, "connect", prepare_sqlite)
    event.listen(engine, "begin", begin_sqlite)
    return engine


@contextmanager
def without_end(connection: Connection) -> Iterator[None]:
    """Let PostgreSQL take as long as it takes for what is done inside."""
    from app.store import postgres_timeout

    driver = connection.connection.driver_connection
    postgres_timeout.be_patient(driver, without_end=True)
    try:
        yield
    finally:
        postgres_timeout.be_patient(driver, without_end=False)


def prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL lets readers and the writer work side by side; NORMAL is durable against a crash of the process."""
    connection.isolation_level = None  # transactions begin where begin_sqlite says, not where the driver guesses
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")  # a large deletion does not leave a large WAL behind
    cursor.close()


def begin_postgres(connection: Connection) -> None:
    """A writer that falls silent ends, and its locks with it: of one whose host is cut off the server hears nothing for hours."""
    options = connection.get_execution_options()
    if options.get("studio_write") and not options.get("studio_rebuild"):  # which takes its time
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {round(IDLE_SECONDS * 1000)}")


def begin_sqlite(connection: Connection) -> None:
    """Writers take the lock at once (a deferred one fails when it wants to write later); readers can't write at all."""
    options = connection.get_execution_options()
    writes = options.get("studio_write", False)
    wanted = {"foreign_keys": int(not options.get("studio_rebuild", False)), "query_only": int(not writes)}
    known = connection.info.setdefault("pragmas", {})
    for name, value in wanted.items():
        if known.get(name) != value:  # a pooled connection is most often asked for the same again
            connection.exec_driver_sql(f"PRAGMA {name} = {value}")
            known[name] = value
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def add_once(session: Session, row: Row, find: Callable[[], Row | None]) -> Row:
    """Return the row, added; where another transaction was faster with the same, the one that `find` gives then.

    Raises IntegrityError when that is none.
    """
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        known = find()
        if known is None:
            raise
        return known
    return row


def now(session: Session) -> datetime:
    """Return the database's clock, UTC: the one clock that all machines share."""
    if session.get_bind().dialect.name == "sqlite":
        stamp = session.execute(text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(stamp).replace(tzinfo=UTC)
    moment: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment.astimezone(UTC)


def as_studio_error(error: DBAPIError | PoolTimeout | StaleDataError) -> Exception:
    """Unavailable for a locked, lost, full or restarting database, InvalidInput for a value it can't keep, Conflict for what
    another transaction was faster with, others as they are.
    """
    if isinstance(error, DataError):
        return InvalidInput("A value has characters or a size that can't be kept (such as the NUL character): change it.")
    if isinstance(error, IntegrityError) and (race := RACES.get(getattr(error.orig, "sqlstate", ""))):
        return Conflict(race)
    if isinstance(error, StaleDataError):
        return Conflict("What this is about was deleted or changed at the same moment: load the page again, then decide anew.")
    if isinstance(error, DBAPIError) and not error.connection_invalidated:
        if not isinstance(error, OperationalError):
            return error
        message = str(error.orig).lower()
        if "sqlite" in type(error.orig).__module__ and not any(word in message for word in SQLITE_TRANSIENT):
            return error
        if "full" in message:
            return Unavailable("The disk that holds the database is full: free some space, then try again.")
        if "locked" in message or "busy" in message or "lock timeout" in message:
            return Unavailable("The database is busy with another change: try again in a few seconds.")
    return Unavailable("The database can't be reached right now: try again in a few seconds.")
