"""Cancels and stops of a real runner: within a step, saved where that is due, killed where it does not listen."""

import os
import signal
import time

import psutil
import pytest

from app.domain.run import RunState
from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import Result, Scene
from tests.timing import Clock
from tests.waiting import wait_until
from worker.supervision.attempt import Patience

LONG = {"steps": 2000, "checkpoint_every": 500}


def cancel(scene: Scene, run_id: str) -> None:
    answer = scene.rest.post(f"/api/v1/runs/{run_id}/cancel")
    assert answer.status_code in (200, 202), answer.text


def test_a_queued_run_that_is_cancelled_never_starts(either_scene: Scene) -> None:
    scene = either_scene
    run_id = scene.launch()
    cancel(scene, run_id)
    with scene.supervising():
        other = scene.launch(training={"steps": 3})
        scene.wait_for_state(other, "succeeded")
    assert scene.states(run_id) == ["queued", "cancelled"]
    assert not scene.files.attempt_dir(run_id, 1).exists()


def test_a_running_run_is_cancelled_within_a_step_and_a_second(either_scene: Scene, clock: Clock) -> None:
    scene = either_scene
    with scene.supervising():
        run_id = scene.launch(training=LONG, evaluation={"every": 2000})
        wait_until(lambda: len(scene.spooled_steps(run_id, 1)) >= 3)
        cancel(scene, run_id)
        asked = time.monotonic()
        scene.wait_for_state(run_id, "cancelled")
        seconds = time.monotonic() - asked
    steps = [entry["payload"]["metrics"]["step_seconds"] for entry in scene.journal(run_id, "step")]
    print(f"cancelled after {seconds:.2f} s; the slowest step took {max(steps):.2f} s")
    clock.check(seconds, max(steps) + 1.0)
    assert scene.states(run_id) == ["queued", "running", "cancelled"]
    assert scene.rest.post(f"/api/v1/runs/{run_id}/cancel").status_code == 409


@pytest.mark.parametrize(
    "patience",
    [Patience(cancel_terminate=0.5, cancel_kill=1.0), pytest.param(Patience(), marks=pytest.mark.soak)],
    ids=["short", "real"],
)
def test_a_runner_stuck_in_c_is_killed_in_time(scene: Scene, patience: Patience, clock: Clock) -> None:
    """It blocks every signal that can be blocked and never looks at the cancel file."""
    with scene.supervising(Mishap("step.begun", "deaf", 4), patience=patience):
        run_id = scene.launch()
        wait_until(lambda: len(scene.spooled_steps(run_id, 1)) >= 3)
        pid = scene.runner_pid(run_id)
        cancel(scene, run_id)
        asked = time.monotonic()
        scene.wait_for_state(run_id, "cancelled")
        seconds = time.monotonic() - asked
    assert not psutil.pid_exists(pid)
    assert Patience().cancel_kill <= 25.0
    print(f"cancelled after {seconds:.1f} s")
    clock.check(seconds, patience.cancel_kill + 5.0)


def test_a_stopping_worker_has_its_runner_save_and_the_next_worker_ends_it_equal(
    either_scene: Scene, undisturbed: Result
) -> None:
    scene = either_scene
    with scene.supervising(Mishap("step.recorded", "pause", 5), worker_name="first") as first:
        run_id = scene.launch()
        wait_until(lambda: scene.is_stopped(run_id))
        first.stop()  # SIGTERM waits for the frozen runner until it goes on
        scene.wait_until_asked(run_id)
        os.kill(scene.runner_pid(run_id), signal.SIGCONT)
    assert scene.run(run_id)["state"] == RunState.QUEUED
    assert scene.checkpoints(run_id)[-1] == "step-000005"
    with scene.supervising(worker_name="second"):
        run = scene.wait_for_state(run_id, "succeeded")
    assert run["attempt"] == 2
    assert scene.states(run_id) == ["queued", "running", "interrupted", "queued", "running", "succeeded"]
    (resumed,) = scene.journal(run_id, "resume")
    assert (resumed["payload"]["step"], resumed["payload"]["checkpoint"]) == (5, "step-000005")
    assert scene.result(run_id) == undisturbed
    assert scene.temporary_files(run_id) == []
