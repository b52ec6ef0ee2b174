"""The web with its files in an object store: uploads are put there, what workers made is fetched from there."""

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.domain.errors import Unavailable
from app.domain.events import ArtifactWritten, OutcomeReached
from app.domain.run import Outcome
from app.services import attempts
from app.store import journal
from app.store.files.object_folders import put_tree
from app.store.files.objects import ObjectStore
from app.store.runs import lock_run
from tests.services.test_models import make_model
from tests.store.files.s3 import S3Server
from tests.timing import Clock
from tests.waiting import END_SECONDS
from tests.web.conftest import PAIRS, Studio, make_app, opened


@pytest.fixture
def stored(tmp_path, migrated_sqlite, s3: S3Server):
    """A studio whose data folder is its own, with its store in a bucket."""
    app = make_app(tmp_path, migrated_sqlite, store_url=s3.prefix, store_endpoint=s3.url)
    with opened(app, tmp_path) as studio:
        yield studio


def store_of(studio: Studio) -> ObjectStore:
    return ObjectStore(studio.settings.store_url, studio.settings.store_endpoint, tries=2)


def test_an_upload_lies_in_the_store_and_is_read_on_a_host_that_has_no_copy(stored: Studio) -> None:
    dataset = stored.upload()["id"]
    assert store_of(stored).read(f"datasets/{dataset}/.tree.json") is not None
    shutil.rmtree(stored.settings.root / "datasets")
    client = stored.client()
    assert len(client.get(f"/api/v1/datasets/{dataset}/examples").json()["items"]) == 20
    assert client.get(f"/api/v1/datasets/{dataset}/file").text == PAIRS
    assert client.delete(f"/api/v1/datasets/{dataset}").status_code == 204
    assert store_of(stored).list_names(f"datasets/{dataset}") == []


def test_an_upload_that_the_store_can_not_take_is_refused_and_leaves_nothing(stored: Studio) -> None:
    stored.app.state.files.store = ObjectStore("s3://no-such-bucket/x", stored.settings.store_endpoint, tries=1)
    response = stored.client().post("/api/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "store" in response.json()["detail"]
    assert stored.client().get("/api/v1/datasets").json()["items"] == []


def test_an_artifact_of_another_host_is_listed_and_downloaded_and_a_newer_one_replaces_it(stored: Studio, tmp_path) -> None:
    run_id, client = stored.launch(), stored.client()
    for attempt, content in ((1, b"first"), (2, b"second, and longer")):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(content)
        put_tree(store_of(stored), f"runs/{run_id}/attempts/{attempt}/artifacts", {"metrics.jsonl": path})
        digest = hashlib.sha256(content).hexdigest()
        event = ArtifactWritten(name="metrics.jsonl", title="Every metric", size_bytes=len(content), sha256=digest)
        with stored.database.writing() as session:
            journal.append(session, lock_run(session, run_id), [event])
        (listed,) = client.get(f"/api/v1/runs/{run_id}/artifacts").json()
        assert listed["sha256"] == digest
        assert client.get(listed["url"]).content == content
    for name in ("../attempts/1/spec.json", "..%2f..%2fx", "nothing"):
        assert client.get(f"/api/v1/runs/{run_id}/artifacts/{name}").status_code == 404
    assert client.post(f"/api/v1/runs/{run_id}/cancel").status_code == 202
    assert client.delete(f"/api/v1/runs/{run_id}").status_code == 204
    assert store_of(stored).list_names(f"runs/{run_id}") == []


def finished(studio: Studio) -> str:
    """A run that has succeeded and left a model here."""
    run_id = studio.launch()
    make_model(studio.app.state.files.artifacts_dir(run_id) / "model")
    with studio.database.writing() as session:
        claim = attempts.begin(session, "worker", 60)
        assert claim is not None
        attempts.finish(session, run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    return run_id


def test_a_model_on_its_slow_way_into_the_store_holds_up_no_other_change(stored: Studio, monkeypatch, clock: Clock) -> None:
    run_id, files = finished(stored), stored.app.state.files
    started, may_end, share = threading.Event(), threading.Event(), files.share

    def slow(folder: Path) -> None:
        started.set()
        assert may_end.wait(END_SECONDS)
        share(folder)

    monkeypatch.setattr(files, "share", slow)
    body = {"kind": "policy", "source": "run", "run_id": run_id}
    with ThreadPoolExecutor() as pool:
        adding = pool.submit(stored.client().post, "/api/v1/models", json=body)
        try:
            assert started.wait(END_SECONDS)
            with clock.within(10):  # a writer that waits for another gives up after 15 s
                stored.launch()
        finally:
            may_end.set()
        answer = adding.result(END_SECONDS)
    assert answer.status_code == 201
    assert store_of(stored).read(f"models/{answer.json()['id']}/.tree.json") is not None


def test_a_model_that_could_not_be_added_leaves_nothing_in_folder_and_store(stored: Studio, monkeypatch) -> None:
    run_id, files = finished(stored), stored.app.state.files

    def refuse(*_: object, **__: object) -> None:
        raise Unavailable("The database is busy with another change: try again in a few seconds.")

    monkeypatch.setattr("app.services.models.add", refuse)
    body = {"kind": "policy", "source": "run", "run_id": run_id}
    assert stored.client().post("/api/v1/models", json=body).status_code == 503
    assert list((files.root / "models").glob("*/model.safetensors")) == []
    assert store_of(stored).list_names("models") == []
