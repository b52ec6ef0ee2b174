"""One undisturbed result for all tests of the session, and runners that start warm."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from app.store.database import Database
from tests import warm as warm_processes
from tests.faults.runner.scene import Result, Scene
from tests.worker.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisors of this process have their runners forked."""
    monkeypatch.setattr(subprocess, "Popen", warm_processes.Popen)


@pytest.fixture
def scene(settings: Settings, database: Database, workshop: Workshop, warm: None) -> Iterator[Scene]:
    """A studio on SQLite."""
    scene = Scene(settings, database, workshop)
    yield scene
    scene.close()


@pytest.fixture
def either_scene(settings: Settings, either_database: Database, workshop: Workshop, warm: None) -> Iterator[Scene]:
    """A studio on SQLite, then on PostgreSQL."""
    scene = Scene(settings, either_database, workshop)
    yield scene
    scene.close()


@pytest.fixture(scope="session")
def results() -> dict[str, Result]:
    """What undisturbed runs ended with."""
    return {}


@pytest.fixture
def undisturbed(
    results: dict[str, Result], workshop: Workshop, warm: None, migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    """Weights and series of a run that nothing happens to; computed once, in a studio of its own on SQLite."""
    if "plain" not in results:
        settings = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("undisturbed") / "var", poll_seconds=0.5)
        shutil.copytree(migrated_sqlite, settings.root)
        database = Database(settings)
        scene = Scene(settings, database, workshop)
        with scene.supervising():
            run_id = scene.launch()
            scene.wait_for_state(run_id, "succeeded")
        results["plain"] = scene.result(run_id)
        scene.close()
        database.close()
    return results["plain"]


@pytest.fixture
def make_scene(workshop: Workshop, migrated_sqlite: Path, warm: None) -> Iterator[Callable[[Settings], Scene]]:
    """A studio on SQLite in a folder that is there only once the test has made it."""
    made: list[Scene] = []

    def make(settings: Settings) -> Scene:
        shutil.copytree(migrated_sqlite, settings.root, dirs_exist_ok=True)
        made.append(Scene(settings, Database(settings), workshop))
        return made[-1]

    yield make
    for scene in made:
        scene.close()
        scene.database.close()
