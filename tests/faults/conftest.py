"""Fixtures of the fault tests: the servers of a whole box, and houses whose processes reach them through proxies."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.settings import Settings
from tests.box.servers import find_postgresql, find_redis
from tests.conftest import migrate
from tests.faults.house import House
from tests.faults.proxy import Proxy
from tests.faults.servers import Postgres, Redis, running_postgres, running_redis

SETUPS = ["embedded", pytest.param("servers", marks=pytest.mark.box)]
# For tests whose second set-up is left to the soak: pytest.mark.parametrize("house", SERVERS_IN_SOAK, indirect=True).
SERVERS_IN_SOAK = ["embedded", pytest.param("servers", marks=[pytest.mark.box, pytest.mark.soak])]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server that may be restarted."""
    if find_postgresql() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis server that may be killed."""
    if find_redis() is None:
        pytest.skip("Redis is not installed (Debian: apt-get install redis-server)")
    with running_redis() as server:
        yield server


@dataclass
class Wiring:
    """The proxies between a house and its servers."""

    database: Proxy
    broker: Proxy


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def served_tables(postgres_server: Postgres) -> str:
    """The name of a migrated database of the server, to copy."""
    name = postgres_server.create_database()
    migrate(Settings(_env_file=None, database_url=postgres_server.url(name), broker_url="redis://127.0.0.1:1/0"))
    return name


def embedded_house(folder: Path, stack: ExitStack, tables: Path) -> House:
    """On a copy of these tables, which are empty."""
    shutil.copytree(tables, folder / "var", dirs_exist_ok=True)
    settings = Settings(_env_file=None, data_dir=folder / "var")
    house = House(folder, settings)
    stack.callback(house.close)
    return house


def served_house(
    folder: Path, stack: ExitStack, postgres: Postgres, tables: str, redis: Redis, *, repeats: int = 1
) -> tuple[House, Wiring]:
    wiring = Wiring(stack.enter_context(Proxy(postgres.port)), stack.enter_context(Proxy(redis.port, repeats=repeats)))
    name, number = postgres.create_database(tables), redis.take_number()
    settings = Settings(_env_file=None, data_dir=folder / "var", database_url=postgres.url(name), broker_url=redis.url(number))
    house = House(
        folder, settings, seen_database_url=postgres.url(name, wiring.database.port),
        seen_broker_url=redis.url(number, wiring.broker.port),
    )  # fmt: skip
    stack.callback(house.close)
    return house, wiring


@pytest.fixture
def make_served(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> Callable[..., tuple[House, Wiring]]:
    """Houses with PostgreSQL and Redis behind proxies."""

    def make(**options: int) -> tuple[House, Wiring]:
        postgres, tables, redis = map(request.getfixturevalue, ("postgres_server", "served_tables", "redis_server"))
        return served_house(tmp_path, stack, postgres, tables, redis, **options)

    return make


@pytest.fixture(params=SETUPS)
def house(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack, migrated_sqlite: Path) -> House:
    """A house without processes yet: SQLite and the embedded broker, then PostgreSQL and Redis."""
    if request.param == "embedded":
        return embedded_house(tmp_path, stack, migrated_sqlite)
    made, _ = request.getfixturevalue("make_served")()
    return made


@pytest.fixture
def served(make_served: Callable[..., tuple[House, Wiring]]) -> tuple[House, Wiring]:
    return make_served()


@pytest.fixture
def embedded(tmp_path: Path, stack: ExitStack, migrated_sqlite: Path) -> House:
    return embedded_house(tmp_path, stack, migrated_sqlite)
