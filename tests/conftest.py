"""Fixtures for all tests: a whole studio in a temporary folder, and the third-party data where it is at hand."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.settings import Settings
from app.store.database import Database, now
from app.store.files import Files
from app.store.tables import User

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """No setting but the folder (and quick leases); a `.env` of the checkout is not read."""
    return Settings(_env_file=None, data_dir=tmp_path / "var", heartbeat_seconds=0.5, lease_seconds=3.0, poll_seconds=0.5)


@pytest.fixture
def files(settings: Settings) -> Files:
    return Files(settings.root)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A migrated SQLite database."""
    database = Database(settings)
    database.migrate()
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


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of third-party data: STUDIO_SHARED_DATA, or `shared` beside the checkout."""
    folder = Path(os.environ.get("STUDIO_SHARED_DATA") or CHECKOUT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"the third-party data is not at hand (no folder {folder / 'data'}); set STUDIO_SHARED_DATA")
    return folder
