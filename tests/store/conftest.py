from pathlib import Path

import pytest

from app.store.files.objects import ObjectStore
from tests.store.files.s3 import S3Server


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store, in a folder and then in a bucket."""
    if request.param == "file":
        return ObjectStore(f"file://{tmp_path / 'store'}")
    server: S3Server = request.getfixturevalue("s3")
    return ObjectStore(server.prefix, server.url)
