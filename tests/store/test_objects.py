"""The object store: whole files and folders or none, in a folder and in a bucket, and what is said when it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.errors import NotFound, Unavailable
from app.store import objects
from app.store.objects import Damaged, Interruption, ObjectStore, StoreMisconfigured, hash_file
from app.store.trees import MARKER, fetch_member, fetch_tree, find_tree, put_folder, put_tree
from tests.store.s3 import CREDENTIALS, S3Server


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def parts_below(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name.endswith((".part", ".old"))]


class Enough(Interruption):
    pass


def raise_enough() -> None:
    raise Enough


def test_a_file_comes_back_as_it_was_stored(store: ObjectStore, tmp_path: Path) -> None:
    source = write(tmp_path / "a" / "log.txt", b"line\n" * 1000)
    store.put_file(source, "runs/run_1/log.txt")
    store.fetch_file("runs/run_1/log.txt", tmp_path / "b" / "log.txt", sha256=hash_file(source))
    assert (tmp_path / "b" / "log.txt").read_bytes() == source.read_bytes()
    assert store.exists("runs/run_1/log.txt")
    assert store.list_names("runs/run_1") == ["log.txt"]
    store.put_file(write(source, b"newer"), "runs/run_1/log.txt")
    assert store.read("runs/run_1/log.txt") == b"newer"


def test_what_is_not_there_is_not_found_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no runs/x/log\.txt"):
        store.fetch_file("runs/x/log.txt", tmp_path / "here" / "log.txt")
    assert list((tmp_path / "here").iterdir()) == []
    assert store.read("runs/x/log.txt") is None
    assert store.list_names("runs/x") == []
    assert not store.exists("runs/x")
    store.remove("runs/x")


@pytest.mark.parametrize("key", ["../etc/passwd", "/etc/passwd", "runs/../../x", "runs/./x", "a\0b", ""])
def test_no_key_leads_out_of_the_store(store: ObjectStore, tmp_path: Path, key: str) -> None:
    with pytest.raises(NotFound):
        store.fetch_file(key, tmp_path / "x")
    with pytest.raises(NotFound):
        store.remove(key)


def test_a_removed_folder_is_gone_with_all_below_it_and_its_neighbour_stays(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("run_1", "run_10"):
        put_tree(store, f"runs/{name}", {"deep/a.bin": write(tmp_path / "a", b"a")})
    store.remove("runs/run_1")
    assert store.list_names("runs") == ["run_10"]
    assert find_tree(store, "runs/run_1") is None
    assert find_tree(store, "runs/run_10") is not None


def test_a_folder_is_stored_and_fetched_whole(store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(folder / "config.json", b"{}")
    write(folder / "deep" / "model.safetensors", bytes(range(256)) * 5000)
    write(folder / ".cache" / "x", b"hidden")
    put_folder(store, "models/model_1", folder)
    fetch_tree(store, "models/model_1", tmp_path / "copy")
    assert sorted(str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()) == [
        MARKER, "config.json", "deep/model.safetensors",
    ]  # fmt: skip
    assert hash_file(tmp_path / "copy" / "deep" / "model.safetensors") == hash_file(folder / "deep" / "model.safetensors")
    assert parts_below(tmp_path) == []


def test_a_current_copy_is_not_fetched_again_and_an_old_one_is_replaced(store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder / "examples.parquet", b"one")
    put_folder(store, "datasets/data_1", folder)
    copy = tmp_path / "copy"
    fetch_tree(store, "datasets/data_1", copy)
    inode = (copy / "examples.parquet").stat().st_ino
    fetch_tree(store, "datasets/data_1", copy)
    assert (copy / "examples.parquet").stat().st_ino == inode
    fetch_tree(store, "datasets/data_1", folder)  # what was put from here is current here
    assert (folder / "examples.parquet").read_bytes() == b"one"

    write(folder / "examples.parquet", b"two")
    put_folder(store, "datasets/data_1", folder)
    fetch_tree(store, "datasets/data_1", copy)
    assert (copy / "examples.parquet").read_bytes() == b"two"
    assert parts_below(tmp_path) == []


def test_only_what_has_changed_is_sent_again_and_old_files_go(store: ObjectStore, tmp_path: Path) -> None:
    big, log = write(tmp_path / "big", b"b" * 10_000), write(tmp_path / "log", b"1")
    first = put_tree(store, "runs/r/artifacts", {"big": big, "log": log})
    second = put_tree(store, "runs/r/artifacts", {"big": big, "log": write(log, b"12")}, known=first)
    assert second.files["big"].place == first.files["big"].place
    assert second.files["log"].place != first.files["log"].place
    assert not store.exists(f"runs/r/artifacts/{first.files['log'].place}")
    assert put_tree(store, "runs/r/artifacts", {"big": big, "log": log}, known=second) == second
    fetch_member(store, "runs/r/artifacts", second.files["log"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"12"


def test_a_writer_that_ends_half_way_leaves_no_folder(store: ObjectStore, tmp_path: Path) -> None:
    files = {name: write(tmp_path / name, name.encode()) for name in "abc"}
    calls = iter(range(100))

    def stop_soon() -> None:
        if next(calls) > 5:
            raise Enough

    with pytest.raises(Enough):
        put_tree(store, "scorings/s", files, check=stop_soon)
    assert find_tree(store, "scorings/s") is None
    with pytest.raises(NotFound):
        fetch_tree(store, "scorings/s", tmp_path / "copy")
    put_tree(store, "scorings/s", files)
    fetch_tree(store, "scorings/s", tmp_path / "copy")
    assert (tmp_path / "copy" / "c").read_bytes() == b"c"


def test_a_reader_that_ends_half_way_leaves_no_folder(store: ObjectStore, tmp_path: Path) -> None:
    put_tree(store, "scorings/s", {"a": write(tmp_path / "a", b"a" * 100)})
    with pytest.raises(Enough):
        fetch_tree(store, "scorings/s", tmp_path / "cache" / "s", check=raise_enough)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_is_named_and_never_put_in_place(store: ObjectStore, tmp_path: Path) -> None:
    tree = put_tree(store, "runs/r/checkpoints/step-000005", {"tensors": write(tmp_path / "t", b"right")})
    store.write(f"runs/r/checkpoints/step-000005/{tree.files['tensors'].place}", b"wrong")
    with pytest.raises(Damaged, match=r"runs/r/checkpoints/step-000005/.* damaged"):
        fetch_tree(store, "runs/r/checkpoints/step-000005", tmp_path / "c" / "step")
    assert list((tmp_path / "c").iterdir()) == []
    fetch_tree(store, "runs/r/checkpoints/step-000005", tmp_path / "c" / "step", trusting=True)
    assert (tmp_path / "c" / "step" / "tensors").read_bytes() == b"wrong"


def test_a_marker_that_names_a_file_outside_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    store.write("models/m/.tree.json", b'{"version": "1", "files": {"../../x": {"place": "1/x", "size": 1, "sha256": ""}}}')
    with pytest.raises(Damaged, match="outside its folder"):
        fetch_tree(store, "models/m", tmp_path / "m")
    store.write("models/m/.tree.json", b"not json")
    with pytest.raises(Damaged):
        fetch_tree(store, "models/m", tmp_path / "m")


def test_a_large_file_goes_in_pieces(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PIECE_BYTES", 5 * 2**20)
    store = ObjectStore(s3.prefix, s3.url)
    source = write(tmp_path / "big", os.urandom(17 * 2**20))
    asked = []
    store.put_file(source, "big", check=lambda: asked.append(1))
    assert len(asked) >= 4
    store.fetch_file("big", tmp_path / "back", sha256=hash_file(source))
    with pytest.raises(Enough):
        store.put_file(source, "other", check=raise_enough)
    assert not store.exists("other")


def test_a_store_that_can_not_be_reached_is_unavailable_after_a_few_tries(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ObjectStore(s3.prefix, "http://127.0.0.1:1", tries=2, pause_seconds=0.01)
    with pytest.raises(Unavailable, match="can't be reached") as raised:
        store.put_file(write(tmp_path / "a", b"a"), "a")
    assert raised.value.retry_after_seconds > 0
    assert caplog.text.count("try") == 2
    for text in (caplog.text, str(raised.value)):
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in text
        assert CREDENTIALS["AWS_ACCESS_KEY_ID"] not in text


def test_a_bucket_that_is_not_there_is_said(s3: S3Server, tmp_path: Path) -> None:
    store = ObjectStore("s3://no-such-bucket/var", s3.url, tries=1)
    with pytest.raises(Unavailable, match="is not there"):
        store.put_file(write(tmp_path / "a", b"a"), "a")


@pytest.mark.parametrize("url", ["bucket", "s3://key:secret@bucket/x", ""])
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreMisconfigured) as raised:
        ObjectStore(url)
    assert "secret@" not in str(raised.value)


def test_an_unknown_kind_of_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreMisconfigured, match="package"):
        ObjectStore("nosuchthing://x").exists("a")


def test_the_client_is_loaded_only_when_a_store_is_asked() -> None:
    program = "import sys, app.store.objects, app.store.trees, app.main, worker.main; sys.exit('fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
