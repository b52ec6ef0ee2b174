import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from worker.models import checkpoint
from worker.models.checkpoint import list_checkpoints, load_newest, save_checkpoint, sweep

TENSORS = {"a": torch.arange(6.0).view(2, 3), "random/cpu": torch.get_rng_state()}


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, {**TENSORS, "a": TENSORS["a"] + step}, {"progress": {"step": step}})


def test_what_was_saved_comes_back(tmp_path):
    name, size = save_checkpoint(tmp_path, 7, TENSORS, {"raised": ["x"]})
    found, damaged = load_newest(tmp_path)
    assert (name, damaged) == ("step-000007", [])
    assert found is not None
    assert (found.step, found.state["raised"]) == (7, ["x"])
    assert all(torch.equal(found.tensors[key], value) for key, value in TENSORS.items())
    assert size == sum(path.stat().st_size for path in (tmp_path / name).iterdir())


def test_the_newest_is_taken_by_number_and_not_by_name(tmp_path):
    save(tmp_path, 999_999, 1_000_000)
    found, _ = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1_000_000


def test_none_at_all_means_from_the_start(tmp_path):
    assert load_newest(tmp_path / "absent") == (None, [])


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [flip_byte, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, name):
    save(tmp_path, 10, 20)
    damage(tmp_path / "step-000020" / name)
    found, damaged = load_newest(tmp_path)
    assert found is not None
    assert found.step == 10
    assert [bad.name for bad in damaged] == ["step-000020"]
    sweep(tmp_path, 2, damaged)
    assert list_checkpoints(tmp_path) == ["step-000010"]


def test_when_all_are_damaged_the_run_starts_over(tmp_path):
    save(tmp_path, 10, 20)
    for name in list_checkpoints(tmp_path):
        flip_byte(tmp_path / name / "tensors.safetensors")
    found, damaged = load_newest(tmp_path)
    assert found is None
    assert len(damaged) == 2


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    sweep(tmp_path, 2)
    assert list_checkpoints(tmp_path) == ["step-000003", "step-000004"]


def test_a_full_disk_leaves_the_older_checkpoint_and_nothing_temporary(tmp_path, monkeypatch):
    save(tmp_path, 10)

    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "sync", refuse)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]


@pytest.mark.parametrize("call", range(1, 7))
def test_a_kill_at_any_moment_of_the_write_leaves_a_checkpoint_that_verifies(tmp_path, call):
    """The process dies before its n-th fsync or rename: files one by one, the folder, the rename, the parent's fsync."""
    save(tmp_path, 10)
    child = os.fork()
    if child == 0:
        _die_at(call)
        save(tmp_path, 20)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    found, damaged = load_newest(tmp_path)
    assert found is not None
    assert found.step in (10, 20)
    assert not damaged
    assert torch.equal(found.tensors["a"], TENSORS["a"] + found.step)
    sweep(tmp_path, 2, damaged)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def _die_at(call: int) -> None:
    calls = 0

    def guarded(function):
        def run(*args):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return run

    os.fsync, Path.rename = guarded(os.fsync), guarded(Path.rename)  # type: ignore[method-assign]


def test_no_flipped_bit_of_any_small_file_goes_unnoticed(tmp_path):
    save(tmp_path, 20)
    for name in ("manifest.json", "state.json"):
        path = tmp_path / "step-000020" / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 7)]) + whole[place + 1 :])
            found, damaged = load_newest(tmp_path)
            assert found is None, f"byte {place} of {name}"
            assert [bad.name for bad in damaged] == ["step-000020"]
        path.write_bytes(whole)
    assert load_newest(tmp_path)[1] == []


def test_what_refuses_a_checkpoint_its_name_leaves_nothing(tmp_path):
    def refuse() -> None:
        raise InterruptedError("a newer attempt owns this run")

    with pytest.raises(InterruptedError, match="a newer attempt"):
        save_checkpoint(tmp_path, 5, TENSORS, {}, may_appear=refuse)
    assert list(tmp_path.iterdir()) == []
