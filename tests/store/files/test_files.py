"""Files: atomic writes, uploads that leave nothing behind, and names that can't lead out."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.domain.errors import NotFound, Unavailable
from app.store.files.files import Files, write_atomic

TRICKS = ("../secret", "a/../../secret", "/etc/passwd", "..", "", ".", "link", "link/secret", "a\0b", "x" * 5000, "missing")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "var")


def test_an_upload_is_counted_and_hashed_and_lands_as_a_whole(files: Files) -> None:
    with files.open_upload() as upload:
        upload.write(b"one ")
        upload.write(b"two")
        assert (upload.size, upload.sha256) == (7, hashlib.sha256(b"one two").hexdigest())
        target = files.dataset_dir("data_1") / "source"
        assert not target.exists()
        upload.commit(target)
    assert target.read_bytes() == b"one two"
    assert list(files.uploads_dir.iterdir()) == []


def test_an_upload_that_is_left_without_a_commit_is_gone(files: Files) -> None:
    with files.open_upload() as upload:
        upload.write(b"half")
    assert list(files.uploads_dir.iterdir()) == []


def test_sweeping_removes_what_a_killed_process_left_and_spares_what_is_being_written(files: Files) -> None:
    program = f"""
import os, signal
from pathlib import Path
from app.store.files.files import Files
upload = Files(Path({str(files.root)!r})).open_upload()
upload.write(b"half")
upload.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    with files.open_upload() as living:
        assert len(list(files.uploads_dir.iterdir())) == 2
        assert files.sweep_uploads() == 1
        assert list(files.uploads_dir.iterdir()) == [living.path]


def test_a_full_disk_is_unavailable_with_a_sentence(files: Files) -> None:
    upload = files.open_upload()
    upload._file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        upload._file = full  # type: ignore[assignment]
        with pytest.raises(Unavailable, match="disk is full"):
            upload.write(b"x")
    upload.discard()
    assert list(files.uploads_dir.iterdir()) == []


def test_an_atomic_write_replaces_the_whole_file_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spec.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["spec.json"]


@pytest.mark.parametrize("name", TRICKS)
def test_no_artifact_name_leads_out_of_the_folder(files: Files, name: str) -> None:
    folder = files.artifacts_dir("run_1")
    (folder / "a").mkdir(parents=True)
    (files.root / "runs" / "run_1" / "secret").write_text("x")
    (folder / "link").symlink_to(files.root / "runs" / "run_1")
    with pytest.raises(NotFound):
        files.artifact_path("run_1", name)


def test_an_artifact_in_a_folder_is_found_by_its_path(files: Files) -> None:
    path = files.artifacts_dir("run_1") / "model" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert files.artifact_path("run_1", "model/config.json") == path


@pytest.mark.parametrize("identifier", ["..", "../x", "a/b", "", "a\0", ".hidden", "x" * 100])
def test_what_is_no_identifier_is_not_found(files: Files, identifier: str) -> None:
    for folder in (files.run_dir, files.dataset_dir, files.model_dir, files.artifacts_dir):
        with pytest.raises(NotFound):
            folder(identifier)


def test_half_made_scores_go_when_nobody_has_gone_on_with_them_for_days(files: Files) -> None:
    for name, days in (("logprob-old.partial", 8), ("logprob-new.partial", 1), ("logprob-whole", 30)):
        folder = files.scorings_dir / name
        folder.mkdir(parents=True)
        (folder / "group-00000.safetensors").touch()
        os.utime(folder, (time.time() - days * 86400,) * 2)
    assert files.sweep_scorings() == 1
    assert sorted(path.name for path in files.scorings_dir.iterdir()) == ["logprob-new.partial", "logprob-whole"]
