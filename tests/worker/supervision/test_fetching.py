"""What a preview needs, brought from the object store to a host that shares no folder."""

from pathlib import Path

from app.domain.jobs import ModelSource
from app.domain.preview.readings import LengthsRequest, ReadingJob
from app.store.files.objects import ObjectStore
from app.store.files.shared_files import SharedFiles
from app.system.files import never
from worker.supervision.fetching import fetch_preview


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
