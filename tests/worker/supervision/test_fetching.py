"""What a preview needs, brought from the object store to a host that shares no folder."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.errors import Unavailable
from app.domain.jobs import ModelSource
from app.domain.preview.readings import LengthsRequest, ReadingJob
from app.store.files.objects import ObjectStore
from app.store.files.shared_files import SharedFiles
from app.system.files import never
from tests.waiting import wait_until
from worker.supervision import fetching
from worker.supervision.fetching import Arrival, fetch_preview


def write(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


def test_a_reading_brings_the_tokenizer_and_no_weights(tmp_path):
    store = ObjectStore(f"file://{tmp_path / 'store'}", "")
    web, host = SharedFiles(tmp_path / "web", store), SharedFiles(tmp_path / "host", store)
    web.share(write(web.model_dir("model_1"), "tokenizer.json", "config.json", "chat_template.jinja", "model.safetensors"))
    web.share(write(web.dataset_dir("data_1"), "examples.parquet", "source"))
    job = ReadingJob(
        request=LengthsRequest(model_id="model_1", dataset_id="data_1"), kind="policy", hub_dir=str(host.hub_dir),
        model=ModelSource(source="folder", path=str(host.model_dir("model_1"))),
        dataset_path=str(host.dataset_dir("data_1") / "examples.parquet"),
    )  # fmt: skip
    fetch_preview(host, job, never)
    there = {path.name for path in host.model_dir("model_1").iterdir() if not path.name.startswith(".")}
    assert there == {"tokenizer.json", "config.json", "chat_template.jinja"}
    assert [path.name for path in host.dataset_dir("data_1").iterdir() if not path.name.startswith(".")] == ["examples.parquet"]
    host.bring(host.model_dir("model_1"))
    assert (host.model_dir("model_1") / "model.safetensors").read_text() == "model.safetensors"


def test_an_attempt_that_can_not_begin_yet_leaves_no_thread_behind(tmp_path, settings, monkeypatch):
    """As while the database is away: it is tried again ten times a second."""
    files = SharedFiles(tmp_path / "host", ObjectStore(f"file://{tmp_path / 'store'}", ""))
    claim = SimpleNamespace(run_id="run_1", attempt=1, spool_attempt=0, keeps_checkpoints=1, answers_id=None)
    monkeypatch.setattr(fetching, "LeaseKeeper", lambda *_: SimpleNamespace(renew=lambda: False))
    for name in ("fetch_checkpoints", "fetch_ingredients"):
        monkeypatch.setattr(fetching, name, lambda *_, **__: None)

    def spawn(_: Any) -> Any:
        raise Unavailable("The database can't be reached right now.")

    arrival = Arrival(
        None, settings, files, claim, [0], take_over=lambda _: False, spawn=spawn, give_up=pytest.fail,  # type: ignore[arg-type]
    )  # fmt: skip
    arrival._thread.join()
    assert [arrival.advance() for _ in range(5)] == [False] * 5
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "delivery-run_1"], "their end", seconds=20)
