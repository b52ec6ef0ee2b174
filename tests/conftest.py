"""Fixtures for all tests: a whole studio in a temporary folder, and the third-party data where it is at hand."""

import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.orm import Session

from app.domain.dataset import Audit
from app.domain.recipe import Recipe
from app.settings import Settings
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Base, Dataset, Model, User
from tests import warm
from tests.evidence import add_logs, note_begin
from tests.store.files.s3 import CREDENTIALS, S3Server, running_s3
from tests.timing import Clock
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[1]
MEMORY = Path("/dev/shm")
ROOM_BYTES = 12 * 2**30
# Whole studios and real runners: begun first, in whatever order, so that none of them is alone at the end.
LONG = {"flow", "faults", "browser", "box", "demonstration", "cli", "worker"}


def pytest_configure(config: pytest.Config) -> None:
    """Put temporary files into memory where there is plenty, as no test is about the disk of this machine: they are synced
    thousands of times. Processes of tests, and those that they start, take it over from the first one.
    """
    if "TMPDIR" not in os.environ and config.option.basetemp is None and has_room(MEMORY):
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # to be found anew


def has_room(folder: Path) -> bool:
    """Whether all temporary files of the tests fit, programs among them."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return False
    is_open = os.access(folder, os.W_OK) and not system.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return is_open and system.f_bavail * system.f_frsize > ROOM_BYTES


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders of long tests first, and tests that share something in their order; the rest stays as random as it is."""
    items.sort(key=lambda item: item.path.relative_to(CHECKOUT).parts[1] not in LONG)
    places: dict[Path, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.path, []).append(place)
    for path in {item.path for item in items if keeps_order(item)}:
        ordered = sorted((items[place] for place in places[path]), key=lambda item: item.location[1])
        for place, item in zip(places[path], ordered, strict=True):
            items[place] = item


def keeps_order(item: pytest.Item) -> bool:
    """Whether the tests of its module share something, a studio mostly, that each of them leaves changed."""
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009  (no public name gives the scopes)
    return any(definition.scope == "module" for definitions in fixtures for definition in definitions)


def pytest_collection_finish() -> None:
    gc.freeze()  # collections, also those that runs in this process ask for, then leave alone what the imports made


def pytest_runtest_setup(item: pytest.Item) -> None:
    note_begin(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the processes wrote that ran meanwhile."""
    report = yield
    if report.failed:
        add_logs(item, report, item.config._tmp_path_factory.getbasetemp())
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How a failed order is repeated: the same files, in the same order, one after the other."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"The order of the tests: --randomly-seed={config.getoption('randomly_seed')}")


def pytest_sessionfinish() -> None:
    warm.close()


@pytest.fixture(params=[pytest.param(False, id="untimed"), pytest.param(True, id="timed", marks=pytest.mark.bench)])
def clock(request: pytest.FixtureRequest) -> Clock:
    """Lets every second pass, then, in make bench, none beyond its limit."""
    return Clock(request.param)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No setting but the folder (and quick leases); a `.env` of the checkout is not read."""
    return Settings(_env_file=None, data_dir=tmp_path / "var", heartbeat_seconds=0.5, lease_seconds=3.0, poll_seconds=0.5)


@pytest.fixture
def files(settings: Settings) -> Files:
    return Files(settings.root)


@pytest.fixture
def database(settings: Settings, migrated_sqlite: Path) -> Iterator[Database]:
    """A migrated SQLite database."""
    shutil.copytree(migrated_sqlite, settings.root)
    database = Database(settings)
    yield database
    database.close()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A writing session, committed at the test's end."""
    with database.writing() as session:
        yield session


@pytest.fixture
def user(database: Database) -> User:
    """The owner of what a test makes, committed."""
    with database.writing() as session:
        user = User(id="user_ada", name="Ada", role="admin", created_at=now(session))
        session.add(user)
    return user


@dataclass
class Library:
    """A user's rated and labelled data set (its file is not there), a policy and a reward model, committed."""

    user: User
    dataset: Dataset
    policy: Model
    reward: Model

    def recipe(self, **changes: Any) -> Recipe:
        """A recipe of these; `changes` replace whole parts."""
        parts = {"dataset": self.dataset.id, "policy": {"model": self.policy.id}, "weights": {"lambda": 0.5}}
        return Recipe.model_validate({**parts, **changes})


AUDIT = Audit(
    num_rows=10, num_kept_rows=10, num_examples=10, num_responses=20, num_pairs=10, has_rating=True, has_preference=True
)


def make_library(database: Database) -> Library:
    """Write the rows of a Library."""
    with database.writing() as session:
        at = now(session)
        user = User(id="user_ada", name="Ada", role="admin", created_at=at)
        dataset = Dataset(
            id="data_pairs", owner_id=user.id, name="Pairs", state="ready", filename="pairs.jsonl", size_bytes=1000,
            sha256="d" * 64, audit=AUDIT.model_dump(mode="json"), num_examples=10, created_at=at,
        )  # fmt: skip
        models = [
            Model(
                id=f"model_{kind}", owner_id=user.id, name=f"Small {kind}", kind=kind, source="hub", path=f"small/{kind}",
                revision="main", facts={"num_parameters": 1000}, created_at=at,
            )
            for kind in ("policy", "reward")
        ]  # fmt: skip
        session.add(user)
        session.flush()
        session.add_all([dataset, *models])
    return Library(user, dataset, *models)


@pytest.fixture
def library(database: Database) -> Library:
    return make_library(database)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of our own, run as an unprivileged user; ends with `/`, ready for a database's name."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("PostgreSQL is not installed (no /usr/lib/postgresql/*/bin/postgres)")
    programs = found[-1].parent
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="studio-postgres-"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    initdb = [str(programs / "initdb"), "-D", data, "-U", "studio", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user)
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(found[-1]), "-D", data, *options], stdout=log, stderr=log, user=user, group=user and "nogroup"
        )
    url = f"postgresql://studio@127.0.0.1:{port}/"
    wait_until(lambda: accepts_connections(f"{url}postgres"), "the start of PostgreSQL")
    yield url
    server.send_signal(signal.SIGQUIT)  # at once, without tidying up
    server.wait()
    shutil.rmtree(folder)


def accepts_connections(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def create_postgres_database(server: str) -> str:
    """A new, empty database of the server; its whole URL."""
    name = f"studio_{secrets.token_hex(4)}"
    with psycopg.connect(f"{server}postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}{name}"


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """URL of a migrated database; emptying it is much faster than making another."""
    url = create_postgres_database(postgres_url)
    migrate(Settings(_env_file=None, database_url=url, broker_url="redis://127.0.0.1:1/0"))
    return url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a migrated SQLite database, to copy."""
    folder = tmp_path_factory.mktemp("migrated")
    migrate(Settings(_env_file=None, data_dir=folder))
    return folder


def migrate(settings: Settings) -> None:
    database = Database(settings)
    database.migrate()
    database.close()


@pytest.fixture
def postgres_settings(settings: Settings, postgres_url: str) -> Settings:
    """Settings with a fresh, empty PostgreSQL database."""
    return settings.model_copy(update={"database_url": create_postgres_database(postgres_url)})


EITHER = ["sqlite", pytest.param("postgresql", marks=pytest.mark.box)]


@pytest.fixture(params=EITHER)
def either_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings for SQLite, then for PostgreSQL, both without tables."""
    name = "settings" if request.param == "sqlite" else "postgres_settings"
    chosen: Settings = request.getfixturevalue(name)
    return chosen


@pytest.fixture(params=EITHER)
def either_database(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Database]:
    """A migrated database, of both kinds in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    url = request.getfixturevalue("migrated_postgres")
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {', '.join(table.name for table in Base.metadata.sorted_tables)}")
    database = Database(settings.model_copy(update={"database_url": url}))
    database.hints.prepare()
    yield database
    database.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party data: STUDIO_SHARED_DATA, or `shared` beside the checkout."""
    folder = Path(os.environ.get("STUDIO_SHARED_DATA") or CHECKOUT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"the third-party data is not at hand (no folder {folder / 'data'}); set STUDIO_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A local S3-compatible server, for all tests that keep files in a bucket."""
    with running_s3(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a bucket, in our environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(s3_server: S3Server, credentials: None) -> S3Server:
    """The server, empty, with its credentials in our environment."""
    s3_server.clear()
    return s3_server


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis of our own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: is_open(port), "the start of Redis")
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
