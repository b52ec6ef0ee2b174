"""A full disk at a checkpoint and in the spool: a clear error, nothing corrupt, reads go on; freed, the run ends equal."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.settings import Settings
from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import STEPS, Result, Scene
from tests.small_disk import small_disk
from tests.waiting import wait_until


def resume_and_compare(scene: Scene, run_id: str, undisturbed: Result, *, attempts: int) -> None:
    """A user's resume, now that there is room: the run ends as if nothing had been, with nothing left over."""
    assert scene.rest.post(f"/api/v1/runs/{run_id}/resume").status_code in (200, 202)
    with scene.supervising():
        run = scene.wait_for_state(run_id, "succeeded")
    assert run["attempt"] == attempts
    assert scene.result(run_id) == undisturbed
    assert scene.logged_steps(run_id) == list(range(1, STEPS + 1))
    assert scene.temporary_files(run_id) == []
    assert "damaged_checkpoint" not in scene.findings(run_id)


def assert_told(scene: Scene, run_id: str) -> None:
    """The failure names the disk and what to do, in REST and on the page; everything can still be read."""
    run = scene.run(run_id)
    assert "disk is full" in run["error"]["reason"].lower()
    assert "Free some space" in run["error"]["remedy"]
    assert "Free some space" in scene.page(run_id)
    for part in ("events", "metrics", "findings", "artifacts", "log"):
        assert scene.rest.get(f"/api/v1/runs/{run_id}/{part}").status_code == 200
    scene.journal(run_id)


@pytest.mark.parametrize(
    ("point", "passing"),
    [
        ("checkpoint.tensors_written", 2), ("spool.writing", 20), ("artifact.written", 4),
        pytest.param("checkpoint.manifest_written", 2, marks=pytest.mark.soak),
        pytest.param("checkpoint.folder_synced", 2, marks=pytest.mark.soak),
    ],
)  # fmt: skip
def test_a_refused_write_fails_the_run_and_a_resume_ends_it_equal(
    scene: Scene, undisturbed: Result, point: str, passing: int
) -> None:
    with scene.supervising(Mishap(point, "full", passing)):
        run_id = scene.launch()
        run = scene.wait_for_state(run_id, "failed")
    assert run["attempt"] == 1
    assert_told(scene, run_id)
    assert [path for path in scene.temporary_files(run_id) if "step-" in path] == []
    resume_and_compare(scene, run_id, undisturbed, attempts=2)


def test_a_disk_that_refuses_even_the_last_word_is_told_by_the_exit_status(scene: Scene, undisturbed: Result) -> None:
    with scene.supervising(*(Mishap("spool.writing", "full", passing) for passing in (20, 21, 22))):
        run_id = scene.launch()
        run = scene.wait_for_state(run_id, "failed")
    assert run["attempt"] == 1
    assert_told(scene, run_id)
    resume_and_compare(scene, run_id, undisturbed, attempts=2)


def fill(folder: Path, leaving: int) -> Path:
    """A file that leaves so many bytes free, or fewer where the studio writes meanwhile."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    with suppress(OSError):
        ballast.write_bytes(b"x" * max(0, room.f_bavail * room.f_bsize - leaving))
    return ballast


@pytest.mark.parametrize("leaving", [450_000, 0], ids=["checkpoint", "spool"])
def test_a_run_whose_disk_is_really_full_fails_clearly_and_recovers_when_freed(
    scene: Scene, undisturbed: Result, leaving: int
) -> None:
    """The run's folder is a file system of 4 MB; after two steps there is room for one more checkpoint, or for nothing."""
    run_id = scene.launch()
    with small_disk(scene.files.run_dir(run_id), 4_000_000) as disk:
        with scene.supervising(Mishap("step.begun", "pause", 3)):
            wait_until(lambda: scene.is_stopped(run_id))
            ballast = fill(disk, leaving)
            os.kill(scene.runner_pid(run_id), signal.SIGCONT)
            run = scene.wait_for_state(run_id, "failed")
        assert run["attempt"] == 1
        assert_told(scene, run_id)
        assert [path for path in scene.temporary_files(run_id) if "step-" in path] == []
        ballast.unlink()
        resume_and_compare(scene, run_id, undisturbed, attempts=2)


def test_with_the_whole_data_folder_full_the_studio_still_reads_and_goes_on_when_freed(
    settings: Settings, make_scene: Callable[[Settings], Scene], undisturbed: Result
) -> None:
    """The database lies on the full disk too. Its files are made beforehand; every write to them is refused until it is freed."""
    with small_disk(settings.root, 32_000_000) as disk:
        scene = make_scene(settings)
        with scene.supervising(Mishap("step.begun", "pause", 5)):
            run_id = scene.launch()
            wait_until(lambda: scene.is_stopped(run_id) and scene.run(run_id)["step"] == 4)
            ballast = fill(disk, 0)
            os.kill(scene.runner_pid(run_id), signal.SIGCONT)
            wait_until(lambda: not scene.is_stopped(run_id))
            assert scene.run(run_id)["step"] >= 4
            assert scene.journal(run_id, "step")
            assert "Pairs" in scene.page(run_id)
            ballast.unlink()
            wait_until(lambda: scene.run(run_id)["state"] in ("failed", "succeeded"))
        if scene.run(run_id)["state"] == "failed":
            assert_told(scene, run_id)
            resume_and_compare(scene, run_id, undisturbed, attempts=scene.run(run_id)["attempt"] + 1)
        assert scene.result(run_id) == undisturbed
