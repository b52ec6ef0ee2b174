"""Whatever happens to runs, and in whatever order: tests/faults/life.py against both databases, against a model."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from app.settings import Settings
from app.store.database import Database
from app.store.tables import Base
from tests.conftest import create_postgres_database, migrate
from tests.faults.life import LifeOfRuns

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
FIND = (Phase.explicit, Phase.generate)  # shrinking a long life takes minutes: see test_thousands_of_lives


def live_through(open_database: Any, *, num_lives: int, num_steps: int, derandomize: bool = True, **more: Any) -> None:
    machine = type("Lives", (LifeOfRuns,), {"open_database": staticmethod(open_database)})
    chosen = settings(
        max_examples=num_lives, stateful_step_count=num_steps, derandomize=derandomize, database=None, **more, **CALM
    )
    run_state_machine_as_test(machine, settings=chosen)


@pytest.fixture
def sqlite_databases(migrated_sqlite: Path) -> Any:
    def open_one() -> Iterator[Database]:
        folder = Path(tempfile.mkdtemp(prefix="studio-life-"))
        shutil.copytree(migrated_sqlite, folder, dirs_exist_ok=True)
        database = Database(Settings(_env_file=None, data_dir=folder))
        try:
            yield database
        finally:
            database.close()
            shutil.rmtree(folder)

    return open_one


@pytest.fixture
def postgres_databases(postgres_url: str) -> Any:
    url = create_postgres_database(postgres_url)
    migrate(Settings(_env_file=None, database_url=url, broker_url="redis://127.0.0.1:1/0"))

    def open_one() -> Iterator[Database]:
        with psycopg.connect(url) as connection:
            connection.execute(f"TRUNCATE {', '.join(table.name for table in Base.metadata.sorted_tables)}")
        database = Database(Settings(_env_file=None, database_url=url, broker_url="redis://127.0.0.1:1/0"))
        try:
            yield database
        finally:
            database.close()

    return open_one


def test_whatever_happens_a_run_has_one_owner_and_one_end(sqlite_databases: Any) -> None:
    live_through(sqlite_databases, num_lives=30, num_steps=40, phases=FIND)


@pytest.mark.box
def test_the_same_holds_on_postgresql(postgres_databases: Any) -> None:
    live_through(postgres_databases, num_lives=10, num_steps=30, phases=FIND)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.box)])
def test_thousands_of_lives(kind: str, request: pytest.FixtureRequest) -> None:
    num_lives = int(os.environ.get("SOAK_LIVES", "1000"))
    live_through(request.getfixturevalue(f"{kind}_databases"), num_lives=num_lives, num_steps=60, derandomize=False)
