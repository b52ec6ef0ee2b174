"""Worker processes with the real runner, killed with or without it, or asked to go: the next worker ends the run equal."""

import os
import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from tests.faults.house import House
from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import Result, Scene, assert_resumed_whole
from tests.waiting import wait_until
from tests.worker.workshop import Workshop

REAL_WORKER = Path(__file__).with_name("real_worker.py")
HELD_AT = 5  # the runner stands still after this step, until the test lets it go on
SETTINGS = {"runner_threads": "1", "grace_seconds": "60", "lease_seconds": "3"}


@pytest.fixture
def open_scene(workshop: Workshop) -> Iterator[Callable[[House], Scene]]:
    """The judge of a house's runs."""
    opened: list[Scene] = []

    def open_one(house: House) -> Scene:
        opened.append(Scene(house.settings, house.database, workshop, house.library))
        return opened[-1]

    yield open_one
    for scene in opened:
        scene.close()


def wait_until_gone(pid: int) -> None:
    """Until the process is gone; it may have become our child when its parent died."""

    def is_gone() -> bool:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return not psutil.pid_exists(pid)
        return not psutil.pid_exists(pid)

    wait_until(is_gone)


def end_worker(house: House, scene: Scene, run_id: str, how: str) -> int:
    """Let the first worker go in one of three ways while its runner stands at step HELD_AT; the step that was saved last."""
    (worker,), runner = house.workers, scene.runner_pid(run_id)
    if how == "asked":
        worker.send_signal(signal.SIGTERM)
        scene.wait_until_asked(run_id)
        os.kill(runner, signal.SIGCONT)
        assert worker.wait(90) == 0
        wait_until_gone(runner)
        assert scene.states(run_id)[-2:] == ["interrupted", "queued"]
        return HELD_AT
    worker.kill()
    worker.wait()
    if how == "killed with its runner":
        os.kill(runner, signal.SIGKILL)
        wait_until_gone(runner)
        return HELD_AT - HELD_AT % 3
    os.kill(runner, signal.SIGCONT)
    wait_until_gone(runner)  # by itself: its supervisor is gone
    assert len(scene.spooled_steps(run_id, 1)) == HELD_AT
    return HELD_AT


def check(house: House, scene: Scene, undisturbed: Result, how: str) -> None:
    house.start_worker(str(Mishap("step.recorded", "pause", HELD_AT)), program=REAL_WORKER, **SETTINGS)
    run_id = scene.launch()
    wait_until(lambda: scene.is_stopped(run_id))
    wait_until(lambda: bool(scene.run(run_id)["step"] == HELD_AT))
    saved = end_worker(house, scene, run_id, how)
    assert scene.checkpoints(run_id)[-1] == f"step-{saved:06d}"
    house.start_worker(program=REAL_WORKER, **SETTINGS)
    scene.wait_for_state(run_id, "succeeded")
    assert_resumed_whole(scene, run_id, undisturbed)
    (resumed,) = scene.journal(run_id, "resume")
    assert resumed["payload"]["step"] == saved
    first, second = (scene.spooled_steps(run_id, attempt) for attempt in (1, 2))
    assert datetime.fromisoformat(first[-1]["at"]) < datetime.fromisoformat(second[0]["at"])
    assert scene.runner_pid(run_id, 1) != scene.runner_pid(run_id, 2)
    assert [pid for pid in pids(scene, run_id) if psutil.pid_exists(pid)] == []


def pids(scene: Scene, run_id: str) -> list[int]:
    return [scene.runner_pid(run_id, attempt) for attempt in (1, 2)]


def test_a_runner_that_outlives_its_killed_worker_stops_by_itself_and_the_next_worker_ends_the_run_equal(
    embedded: House, open_scene: Callable[[House], Scene], undisturbed: Result
) -> None:
    check(embedded, open_scene(embedded), undisturbed, "killed alone")


@pytest.mark.soak
@pytest.mark.parametrize("how", ["asked", "killed alone", "killed with its runner"])
def test_a_run_outlives_its_worker_in_every_way_and_with_every_server(
    house: House, open_scene: Callable[[House], Scene], undisturbed: Result, how: str
) -> None:
    check(house, open_scene(house), undisturbed, how)
