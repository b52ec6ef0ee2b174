"""Damaged checkpoints: each is named in a finding, the one before is used; with none left the run starts again and says so."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import CHECKPOINT_EVERY, Result, Scene, assert_resumed_whole, flip_byte, truncate
from tests.waiting import wait_until

FILES = ("tensors.safetensors", "state.json", "manifest.json")
DAMAGES = {"flip": flip_byte, "truncate": truncate, "delete": Path.unlink}
# The deterministic subset: each file and each damage once; the rest are make soak's.
CHOSEN = {("tensors.safetensors", "flip"), ("state.json", "truncate"), ("manifest.json", "delete")}
CASES = [
    pytest.param(file, damage, marks=() if (file, damage) in CHOSEN else pytest.mark.soak) for file in FILES for damage in DAMAGES
]


def interrupt_and_damage(scene: Scene, damage: Callable[[Path], None]) -> str:
    """A run that was held after two checkpoints, killed there, and damaged before anybody goes on with it; its id."""
    with scene.supervising(Mishap("checkpoint.swept", "pause", 2), worker_name="first"):
        run_id = scene.launch()
        wait_until(lambda: scene.is_stopped(run_id))
        damage(scene.files.checkpoints_dir(run_id))
        os.kill(scene.runner_pid(run_id), signal.SIGKILL)
        scene.wait_for_state(run_id, "succeeded")
    return run_id


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_file_of_the_newest_checkpoint_is_named_and_the_previous_one_is_used(
    scene: Scene, undisturbed: Result, file: str, damage: str
) -> None:
    newest = f"step-{2 * CHECKPOINT_EVERY:06d}"
    run_id = interrupt_and_damage(scene, lambda folder: DAMAGES[damage](folder / newest / file))
    assert_resumed_whole(scene, run_id, undisturbed)
    (resumed,) = scene.journal(run_id, "resume")
    assert resumed["payload"]["step"] == CHECKPOINT_EVERY
    found = scene.findings(run_id)["damaged_checkpoint"]
    assert newest in found["evidence"]
    assert file in found["evidence"]
    text = read_text(scene.page(run_id))
    assert f"{newest}: " in text
    assert file in text
    assert f"The run goes on from step-{CHECKPOINT_EVERY:06d}" in text


def test_with_no_checkpoint_left_the_run_starts_again_and_says_so(scene: Scene, undisturbed: Result) -> None:
    def damage_all(folder: Path) -> None:
        for path in folder.glob("step-*/tensors.safetensors"):
            flip_byte(path)

    run_id = interrupt_and_damage(scene, damage_all)
    assert_resumed_whole(scene, run_id, undisturbed)
    (resumed,) = scene.journal(run_id, "resume")
    assert (resumed["payload"]["step"], resumed["payload"]["checkpoint"]) == (0, "")
    text = read_text(scene.page(run_id))
    assert "Attempt 2 goes on from the start" in text
    assert "The run goes on from the start." in text
    assert "step-000003" in text
    assert "step-000006" in text


def test_with_all_checkpoints_deleted_the_run_starts_again_and_says_so(scene: Scene, undisturbed: Result) -> None:
    run_id = interrupt_and_damage(scene, shutil.rmtree)
    assert_resumed_whole(scene, run_id, undisturbed)
    assert "Attempt 2 goes on from the start" in read_text(scene.page(run_id))


def read_text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())
