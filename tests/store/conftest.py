from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.objects import ObjectStore
from tests.store.s3 import CREDENTIALS, S3Server, running_s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, empty, with its credentials in our environment."""
    s3_server.clear()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store, in a folder and then in a bucket."""
    if request.param == "file":
        return ObjectStore(f"file://{tmp_path / 'store'}", pause_seconds=0.01)
    server: S3Server = request.getfixturevalue("s3")
    return ObjectStore(server.prefix, server.url, pause_seconds=0.01)
