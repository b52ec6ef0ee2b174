"""The disk gauge: what the data folder holds by part, and when nothing more may be begun."""

import os
from pathlib import Path

import pytest

from app.domain.errors import StorageFull
from app.settings import Settings
from app.store.files import disk
from app.store.files.disk import DiskGauge, Storage, measure

SIZES = {
    "datasets/data_1/source": ("datasets", 100),
    "models/model_1/model.safetensors": ("models", 200),
    "runs/run_1/checkpoints/step-000001/tensors.safetensors": ("checkpoints", 400),
    "runs/run_1/artifacts/model/a": ("artifacts", 800),
    "runs/run_1/attempts/1/events.jsonl": ("attempts", 1600),
    "runs/run_1/stray": ("other", 3),
    "scorings/key/scores": ("scorings", 3200),
    "hub/models--x/blob": ("hub", 6400),
    "uploads/a.part": ("uploads", 50),
    "studio.db-wal": ("database", 70),
    "trainings/x": ("other", 7),
}


def fill(root: Path) -> None:
    for name, (_, size) in SIZES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)


def gauge(root: Path, **limits: int) -> DiskGauge:
    return DiskGauge(Settings(_env_file=None, data_dir=root, **limits))


def test_every_file_counts_once_in_its_part(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "hub/link").symlink_to(tmp_path / "hub/models--x/blob")
    expected: dict[str, int] = dict.fromkeys(disk.PARTS, 0)
    for part, size in SIZES.values():
        expected[part] += size
    assert measure(tmp_path) == expected
    assert gauge(tmp_path).look().used_bytes == sum(expected.values())


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    storage = gauge(tmp_path / "not" / "there").look()
    assert storage.used_bytes == 0
    assert storage.disk_bytes > 0


def test_without_a_limit_nothing_is_measured_and_nothing_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "measure", lambda root: pytest.fail("it was measured"))
    gauge(tmp_path).require_room("A new run")


def test_a_quota_refuses_and_lets_in_again_as_soon_as_something_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    held = gauge(tmp_path, disk_quota_bytes=10_000)
    with pytest.raises(StorageFull, match=r"A new run can't be taken in: .* take 12.8 kB of the 10 kB .*STUDIO_DISK_QUOTA_BYTES"):
        held.require_room("A new run")
    assert held.look().is_full
    monkeypatch.setattr(disk, "FRESH_SECONDS_FULL", 0.0)
    (tmp_path / "hub/models--x/blob").unlink()
    held.require_room("A new run")
    assert not held.look().is_full


def test_what_is_larger_than_the_room_is_refused_before_it_comes(tmp_path: Path) -> None:
    held = gauge(tmp_path, disk_quota_bytes=10_000)
    held.require_room("The upload", 9_000)
    with pytest.raises(StorageFull, match="There is room for 10 kB more"):
        held.require_room("The upload", 11_000)


def test_a_disk_with_less_than_its_share_free_is_full(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    gauge(tmp_path, min_free_bytes=1).require_room("A new run")
    with pytest.raises(StorageFull, match="STUDIO_MIN_FREE_BYTES"):
        gauge(tmp_path, min_free_bytes=free * 2).require_room("A new run")


def test_the_walk_is_not_repeated_for_everybody_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[Path] = []

    def walk(root: Path) -> dict[str, int]:
        walks.append(root)
        return measure(root)

    monkeypatch.setattr(disk, "measure", walk)
    held = gauge(tmp_path, disk_quota_bytes=10_000)
    for _ in range(100):
        held.look()
    assert len(walks) == 1


def test_the_room_is_never_negative() -> None:
    assert Storage(200, {}, 100, 50, 1000, 0).room_bytes == 0
    assert Storage(20, {}, 100, 50, 1000, 10).room_bytes == 40
