"""kill -9 of a runner, at any point of its work: the run goes on by itself and ends as if nothing had been."""

import os
import random
import signal

import pytest

from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import CHECKPOINT_EVERY, STEPS, Result, Scene, assert_resumed_whole
from tests.waiting import wait_until
from worker.running.failpoints import CHECKPOINT_POINTS

NUM_LINES = 30  # the spool of the tiny run has some more


def choose(seed: int) -> Mishap | None:
    """A place to die in; None: killed from outside once a step is in the spool."""
    chance = random.Random(seed)
    point = chance.choice(["step.begun", "step.taken", "step.recorded", "spool.writing", "spool.written", ""])
    passing = chance.randint(1, NUM_LINES if point.startswith("spool") else STEPS)
    return Mishap(point, "kill", passing) if point else None


def kill_at_seed(scene: Scene, undisturbed: Result, seed: int) -> None:
    mishap = choose(seed)
    with scene.supervising(*([mishap] if mishap else [])):
        run_id = scene.launch()
        if mishap is None:
            step = random.Random(seed).randint(1, STEPS - 1)
            wait_until(lambda: len(scene.spooled_steps(run_id, 1)) >= step)
            os.kill(scene.runner_pid(run_id), signal.SIGKILL)
        scene.wait_for_state(run_id, "succeeded")
    assert_resumed_whole(scene, run_id, undisturbed)


@pytest.mark.parametrize("seed", [3, 7])
def test_a_runner_killed_at_a_random_step_is_resumed_once_and_ends_equal(
    either_scene: Scene, undisturbed: Result, seed: int
) -> None:
    kill_at_seed(either_scene, undisturbed, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(50))
def test_fifty_runners_killed_at_random_steps_end_equal(either_scene: Scene, undisturbed: Result, seed: int) -> None:
    kill_at_seed(either_scene, undisturbed, seed)


@pytest.mark.parametrize("point", CHECKPOINT_POINTS)
def test_a_runner_killed_at_any_step_of_a_checkpoint_resumes_from_the_newest_whole_one(
    scene: Scene, undisturbed: Result, point: str
) -> None:
    """The third checkpoint is the first that makes an older one go; three files are synced in each."""
    passing = {"checkpoint.file_synced": 7, "checkpoint.removing": 1}.get(point, 3)
    with scene.supervising(Mishap(point, "kill", passing)):
        run_id = scene.launch()
        scene.wait_for_state(run_id, "succeeded")
    assert_resumed_whole(scene, run_id, undisturbed)
    is_whole = CHECKPOINT_POINTS.index(point) >= CHECKPOINT_POINTS.index("checkpoint.renamed")
    (resumed,) = scene.journal(run_id, "resume")
    assert resumed["payload"]["step"] == (3 if is_whole else 2) * CHECKPOINT_EVERY
    assert "damaged_checkpoint" not in scene.findings(run_id)
