"""The object store: whole files and folders or none, in a folder and in a bucket, and what is said when it fails."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import certifi
import httpx
import pytest
import trustme

from app.domain.errors import NotFound, Unavailable
from app.store.files import objects
from app.store.files.object_folders import MARKER, fetch_member, fetch_tree, find_tree, put_folder, put_tree
from app.store.files.objects import Check, Interruption, ObjectDamaged, ObjectStore, StoreMisconfigured
from app.system.files import hash_file
from tests.conftest import CHECKOUT
from tests.store.files.answering import answering
from tests.store.files.s3 import BUCKET, CREDENTIALS, S3Server


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


def raise_after(num_calls: int) -> Check:
    calls = iter(range(1000))

    def check() -> None:
        if next(calls) >= num_calls:
            raise Enough

    return check


def test_a_file_comes_back_as_it_was_stored(store: ObjectStore, tmp_path: Path) -> None:
    source = write(tmp_path / "a" / "log.txt", b"line\n" * 1000)
    store.put_file(source, "runs/run_1/log.txt")
    store.fetch_file("runs/run_1/log.txt", tmp_path / "b" / "log.txt", sha256=hash_file(source))
    assert (tmp_path / "b" / "log.txt").read_bytes() == source.read_bytes()
    assert store.list_names("runs/run_1") == ["log.txt"]
    store.put_file(write(source, b"newer"), "runs/run_1/log.txt")
    assert store.read("runs/run_1/log.txt") == b"newer"


def test_what_is_not_there_is_not_found_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds no runs/x/log\.txt"):
        store.fetch_file("runs/x/log.txt", tmp_path / "here" / "log.txt")
    assert list((tmp_path / "here").iterdir()) == []
    assert store.read("runs/x/log.txt") is None
    assert store.list_names("runs/x") == []
    assert store.read("runs/x") is None
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


def test_with_a_folder_goes_what_a_killed_writer_had_begun(tmp_path: Path) -> None:
    store = ObjectStore(f"file://{tmp_path / 'store'}")
    store.write("runs/run_1/log.txt", b"all")
    write(tmp_path / "store" / "runs" / "run_1" / "model#1", b"a part, as the client names it")
    assert store.list_names("runs/run_1") == ["log.txt"]
    store.remove("runs/run_1")
    assert store.list_names("runs") == []


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
    assert store.read(f"runs/r/artifacts/{first.files['log'].place}") is None
    assert put_tree(store, "runs/r/artifacts", {"big": big, "log": log}, known=second) == second
    fetch_member(store, "runs/r/artifacts", second.files["log"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"12"


def test_a_writer_that_ends_half_way_leaves_no_folder(store: ObjectStore, tmp_path: Path) -> None:
    files = {name: write(tmp_path / name, name.encode()) for name in "abc"}
    with pytest.raises(Enough):
        put_tree(store, "scorings/s", files, check=raise_after(6))
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
    with pytest.raises(ObjectDamaged, match=r"runs/r/checkpoints/step-000005/.* damaged"):
        fetch_tree(store, "runs/r/checkpoints/step-000005", tmp_path / "c" / "step")
    assert list((tmp_path / "c").iterdir()) == []
    fetch_tree(store, "runs/r/checkpoints/step-000005", tmp_path / "c" / "step", trusting=True)
    assert (tmp_path / "c" / "step" / "tensors").read_bytes() == b"wrong"


def test_a_marker_that_names_a_file_outside_is_refused(store: ObjectStore, tmp_path: Path) -> None:
    store.write("models/m/.tree.json", b'{"version": "1", "files": {"../../x": {"place": "1/x", "size": 1, "sha256": ""}}}')
    with pytest.raises(ObjectDamaged, match="outside its folder"):
        fetch_tree(store, "models/m", tmp_path / "m")
    store.write("models/m/.tree.json", b"not json")
    with pytest.raises(ObjectDamaged):
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
        store.put_file(source, "other", check=raise_after(3))
    assert store.read("other") is None
    assert "<Upload>" not in httpx.get(f"{s3.url}/{BUCKET}?uploads").text  # nor any part of it


def test_a_store_that_can_not_be_reached_is_unavailable(s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ObjectStore(s3.prefix, "http://127.0.0.1:1", tries=2)
    with pytest.raises(Unavailable, match="can't be reached") as raised:
        store.put_file(write(tmp_path / "a", b"a"), "a")
    assert raised.value.retry_after_seconds > 0
    assert "can't be reached" in caplog.text
    for text in (caplog.text, str(raised.value)):
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in text
        assert CREDENTIALS["AWS_ACCESS_KEY_ID"] not in text


@pytest.mark.parametrize(("num_failures", "ends_well"), [(3, True), (4, False)])
def test_a_store_that_fails_is_asked_a_few_times(
    credentials: None, monkeypatch: pytest.MonkeyPatch, num_failures: int, ends_well: bool
) -> None:
    monkeypatch.setattr(objects, "PAUSE", timedelta(milliseconds=1))
    with answering(*[(500, b"")] * num_failures, (200, b"at last")) as server:
        store = ObjectStore("s3://bucket/var", server.url)
        if ends_well:
            assert store.read("a") == b"at last"
        else:
            with pytest.raises(Unavailable, match=r"can't be reached \(it answers 500\)"):
                store.read("a")
        assert server.num_requests == 4


@pytest.mark.parametrize("ask", [lambda store, path: store.read("a"), lambda store, path: store.put_file(path, "a"),
                                 lambda store, path: store.list_names("a"), lambda store, path: store.remove("a")])  # fmt: skip
def test_a_silent_store_is_unavailable_in_bounded_time(
    credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Callable[[ObjectStore, Path], object]
) -> None:
    monkeypatch.setattr(objects, "SILENCE", timedelta(seconds=0.2))
    monkeypatch.setattr(objects, "TRYING", timedelta(seconds=0.5))
    monkeypatch.setattr(objects, "PAUSE", timedelta(milliseconds=1))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match="can't be reached"):
        ask(ObjectStore("s3://bucket/var", f"http://127.0.0.1:{silent.getsockname()[1]}"), write(tmp_path / "a", b"a"))


@pytest.mark.parametrize(("answer", "sentence"), [
    ((403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"), "refuses us: check its credentials"),
    ((401, b""), "refuses us: check its credentials"),
    ((404, b"<Error><Code>NoSuchBucket</Code></Error>"), "is not there"),
    ((301, b""), "another region: set AWS_REGION"),
])  # fmt: skip
def test_what_a_store_answers_is_said_as_what_to_do(
    credentials: None, tmp_path: Path, answer: tuple[int, bytes], sentence: str
) -> None:
    with answering(answer) as server:
        store = ObjectStore("s3://bucket/var", server.url)
        for ask in (lambda: store.put_file(write(tmp_path / "a", b"a"), "a"), lambda: store.list_names("a")):
            with pytest.raises(Unavailable, match=sentence):
                ask()


def test_a_certificate_is_trusted_when_the_system_trusts_it_and_its_lack_is_said(credentials: None, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")

    def ask(url: str, trusted: Path | str) -> "subprocess.CompletedProcess[str]":  # in a process, as trust is read once
        program = f"from app.store.files.objects import ObjectStore; print(ObjectStore('s3://b/x', {url!r}, tries=1).read('a'))"
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=CHECKOUT,
            env={**os.environ, "SSL_CERT_FILE": str(trusted)},
        )  # fmt: skip

    with answering((200, b"in private"), context=context) as server:
        assert "certificate that is not trusted" in ask(server.url, certifi.where()).stderr
        assert ask(server.url, tmp_path / "authority.pem").stdout == "b'in private'\n"


def test_a_bucket_that_is_not_there_is_said(s3: S3Server, tmp_path: Path) -> None:
    store = ObjectStore("s3://no-such-bucket/var", s3.url, tries=1)
    for ask in (lambda: store.put_file(write(tmp_path / "a", b"a"), "a"), lambda: store.list_names("a")):
        with pytest.raises(Unavailable, match="is not there"):
            ask()


@pytest.mark.parametrize("url", ["bucket", "s3://key:secret@bucket/x", "", "nosuchthing://x", "s3://", "file:///"])
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreMisconfigured) as raised:
        ObjectStore(url)
    assert "secret@" not in str(raised.value)


def test_the_client_is_loaded_only_when_a_store_is_asked() -> None:
    modules = "app.store.files.objects, app.store.files.object_folders, app.main, worker.main"
    program = f"import sys, {modules}; sys.exit('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
