from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.studio import Studio, running_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, shared_models: Path) -> Iterator[Studio]:
    """One studio for all tests of a module."""
    with running_studio(tmp_path_factory.mktemp("studio") / "var", model_roots=[shared_models]) as running:
        yield running


@pytest.fixture(scope="session")
def shared_models(shared: Path) -> Path:
    """The third-party models."""
    return shared / "models"
