"""What a runner that can't go on leaves behind: a state, a reason, a remedy; and the runs behind it in the line go on."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import Result, Scene
from tests.waiting import wait_until


def test_a_run_that_crashes_at_its_start_fails_after_three_attempts_with_its_log_and_others_proceed(
    either_scene: Scene, undisturbed: Result
) -> None:
    scene = either_scene
    with scene.supervising(Mishap("artifact.written", "exit", 1, attempt=0)):
        crashing = scene.launch()
        run = scene.wait_for_state(crashing, "failed")
    assert run["attempt"] == 3
    assert scene.states(crashing).count("interrupted") == 2
    assert "exit status 3" in run["error"]["reason"]
    assert "fell over at a fail-point" in run["error"]["log_tail"]
    assert "fell over at a fail-point" in scene.page(crashing)
    with scene.supervising():
        other = scene.launch()
        scene.wait_for_state(other, "succeeded")
    assert scene.result(other) == undisturbed


def test_a_run_behind_a_crashing_one_is_not_held_up(scene: Scene) -> None:
    """Both have the same program; it crashes at its fourth step, which the shorter one does not have."""
    with scene.supervising(Mishap("step.begun", "exit", 4, attempt=0)):
        crashing = scene.launch(training={"checkpoint_every": 500})
        behind = scene.launch(training={"steps": 3})
        scene.wait_for_state(behind, "succeeded")
        assert scene.wait_for_state(crashing, "failed")["attempt"] == 3


def test_a_runner_killed_from_outside_again_and_again_fails_after_one_retry_with_the_reason(scene: Scene) -> None:
    with scene.supervising():
        run_id = scene.launch(training={"steps": 400})
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: len(scene.spooled_steps(run_id, attempt)) >= 1)
            os.kill(scene.runner_pid(run_id, attempt), signal.SIGKILL)
        run = scene.wait_for_state(run_id, "failed")
    assert run["attempt"] == 2
    assert "SIGKILL" in run["error"]["reason"]
    assert "memory" in run["error"]["reason"]
    assert "training.micro_batch_size" in run["error"]["remedy"]


@contextmanager
def limited_memory(size_bytes: int) -> Iterator[Path]:
    """A control group whose processes get so much more memory than they had when they came, or are killed by the kernel."""
    root = Path("/sys/fs/cgroup")
    versions = {root / "memory": "memory.limit_in_bytes", root: "memory.max"}
    name = f"studio-test-{os.getpid()}"
    for parent, limit in versions.items():
        group = parent / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(size_bytes))
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("this machine lets nobody here limit the memory of processes (control groups)")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may limit the memory of processes")
def test_a_runner_that_the_kernel_kills_for_memory_fails_after_one_retry_with_the_reason(scene: Scene) -> None:
    with (
        limited_memory(50_000_000) as group,
        scene.supervising(Mishap("step.recorded", "pause", 2, attempt=0), Mishap("step.begun", "devour", 3, attempt=0)),
    ):
        run_id = scene.launch()
        for attempt in (1, 2):
            wait_until(lambda attempt=attempt: scene.is_stopped(run_id, attempt))
            pid = scene.runner_pid(run_id, attempt)
            (group / "cgroup.procs").write_text(str(pid))
            os.kill(pid, signal.SIGCONT)
        run = scene.wait_for_state(run_id, "failed")
        wait_until(lambda: not (group / "cgroup.procs").read_text())
    assert run["attempt"] == 2
    assert "SIGKILL" in run["error"]["reason"]
    assert "memory" in run["error"]["reason"]
    assert "training.micro_batch_size" in run["error"]["remedy"]


def test_a_machine_out_of_memory_fails_the_run_at_once_with_the_settings_to_change(scene: Scene) -> None:
    """A real refusal: the runner may have no more address space, and the allocator says so."""
    with scene.supervising(Mishap("step.begun", "greedy", 5)):
        run_id = scene.launch()
        run = scene.wait_for_state(run_id, "failed")
        following = scene.launch(training={"steps": 3})
        scene.wait_for_state(following, "succeeded")
    assert (run["attempt"], run["error"]["reason"]) == (1, "The machine ran out of memory.")
    assert "training.micro_batch_size" in run["error"]["remedy"]


def test_a_gpu_out_of_memory_fails_without_a_retry_and_the_next_run_starts(either_scene: Scene) -> None:
    scene = either_scene
    with scene.supervising(Mishap("step.begun", "oom", 5)):
        run_id = scene.launch()
        following = scene.launch(training={"steps": 3})
        run = scene.wait_for_state(run_id, "failed")
        scene.wait_for_state(following, "succeeded")
    assert (run["attempt"], run["error"]["reason"]) == (1, "The GPU ran out of memory.")
    assert "training.micro_batch_size" in run["error"]["remedy"]
    assert "Micro-batch size" in scene.page(run_id)
    assert scene.states(run_id) == ["queued", "running", "failed"]


@pytest.mark.parametrize("passing", [0, 5])
def test_a_loss_that_is_not_finite_is_told_and_moves_no_weight(scene: Scene, passing: int) -> None:
    """A checkpoint after every step holds the weights. `passing` 0: every loss is bad, and the run ends as diverged."""
    with scene.supervising(Mishap("step.begun", "nan", passing)):
        run_id = scene.launch(training={"checkpoint_every": 1, "keep_checkpoints": 20, "steps": 8})
        run = scene.wait_for_state(run_id, "succeeded" if passing else "failed")
    bad = [passing] if passing else [1, 2, 3]
    finding = scene.findings(run_id)["divergence"]
    assert (finding["severity"], finding["step"]) == ("error", bad[0])
    assert "not a finite number" in finding["evidence"]
    assert finding["title"] in scene.page(run_id)
    points = dict(scene.get(f"/api/v1/runs/{run_id}/metrics?keys=loss&points=100")["loss"]["points"])
    assert [step for step, loss in points.items() if loss is None] == bad
    digests = {step: scene.weights_digest(run_id, step) for step in range(1, 1 + len(points)) if passing or step < 3}
    for step in range(2, 1 + len(digests)):
        assert (digests[step] == digests[step - 1]) == (step in bad)
    for entry in scene.journal(run_id, "step"):
        assert (entry["payload"]["metrics"]["loss"] is None) == (entry["payload"]["step"] in bad)
    assert scene.logged_steps(run_id) == list(range(1, 1 + len(points)))
    if not passing:
        assert (run["attempt"], "3 steps in a row" in run["error"]["reason"]) == (1, True)
        assert "training.learning_rate" in run["error"]["remedy"]
