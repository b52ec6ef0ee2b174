"""A runner frozen by SIGSTOP for longer than a lease: the new attempt owns the run, and the old one writes nothing more."""

import hashlib
import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from app.domain.errors import StaleToken
from app.services import attempts, recordings
from tests.faults.runner.mishaps import RUNNER_COMMAND, Mishap
from tests.faults.runner.scene import STEPS, Result, Scene, assert_resumed_whole
from tests.waiting import wait_until
from worker.supervision.attempt import Patience
from worker.supervision.process import RunnerProcess
from worker.supervision.spool_tail import SpoolTail

LEASE = 2.0


def test_a_runner_frozen_for_a_lease_is_ended_and_another_attempt_goes_on(either_scene: Scene, undisturbed: Result) -> None:
    scene = either_scene
    with scene.supervising(Mishap("step.recorded", "pause", 5), lease_seconds=LEASE, heartbeat_seconds=0.5):
        run_id = scene.launch()
        wait_until(lambda: scene.is_stopped(run_id))
        frozen = scene.runner_pid(run_id)
        scene.wait_for_state(run_id, "succeeded")
    assert not psutil.pid_exists(frozen)
    assert_resumed_whole(scene, run_id, undisturbed)
    (interrupted,) = [e["payload"] for e in scene.journal(run_id, "state") if e["payload"]["state"] == "interrupted"]
    assert "frozen" in interrupted["reason"]
    assert len(scene.spooled_steps(run_id, 1)) == 5


def test_a_runner_frozen_for_a_moment_keeps_its_run(scene: Scene, undisturbed: Result) -> None:
    with scene.supervising(Mishap("step.recorded", "pause", 5)):
        run_id = scene.launch()
        wait_until(lambda: scene.is_stopped(run_id))
        os.kill(scene.runner_pid(run_id), signal.SIGCONT)
        assert scene.wait_for_state(run_id, "succeeded")["attempt"] == 1
    assert scene.result(run_id) == undisturbed


def begin_elsewhere(scene: Scene, run_id: str, mishap: Mishap) -> tuple[attempts.Claim, RunnerProcess]:
    """The first attempt on a machine that is cut off: its runner works, nobody renews its lease, nobody here may end it."""
    with scene.database.writing() as session:
        claim = attempts.begin(session, "cut off", 0.0)
        assert claim is not None
        attempts.open_spool(session, claim)
        spec = attempts.build_spec(session, scene.files, scene.settings, claim, "cpu", num_threads=1, supervisor_pid=os.getpid())
    folder = scene.files.attempt_dir(run_id, 1)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    runner = RunnerProcess([*RUNNER_COMMAND, str(mishap)], folder, {})
    record = folder / "process.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "mark": "of another machine"}))
    return claim, runner


def common_files(scene: Scene, run_id: str) -> dict[str, tuple[int, int, str]]:
    """Everything that attempts of a run have in common: inode, time and content of each file."""
    run_dir = scene.files.run_dir(run_id)
    paths = [path for part in ("checkpoints", "artifacts") for path in (run_dir / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(run_dir)): identify(path) for path in paths}


def identify(path: Path) -> tuple[int, int, str]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("point", "passing"),
    [
        ("step.taken", 5),
        ("checkpoint.folder_synced", 2),
        pytest.param("step.begun", 5, marks=pytest.mark.soak),
        pytest.param("artifact.written", 4, marks=pytest.mark.soak),
    ],
)
def test_a_runner_that_wakes_up_when_another_attempt_owns_its_run_writes_nothing_more(
    scene: Scene, undisturbed: Result, point: str, passing: int
) -> None:
    run_id = scene.launch()
    claim, old = begin_elsewhere(scene, run_id, Mishap(point, "pause", passing))
    wait_until(lambda: scene.is_stopped(run_id))
    with scene.database.writing() as session:
        assert attempts.reap(session) == [run_id]
    with scene.supervising(Mishap("step.begun", "pause", 2, attempt=2)):
        wait_until(lambda: scene.is_stopped(run_id, 2))
        before, num_steps = common_files(scene, run_id), len(scene.spooled_steps(run_id, 1))
        os.kill(old.pid, signal.SIGCONT)
        wait_until(lambda: old.poll() is not None)
        assert old.poll() == 12  # interrupted
        assert common_files(scene, run_id) == before
        assert len(scene.spooled_steps(run_id, 1)) <= num_steps + 1
        os.kill(scene.runner_pid(run_id, 2), signal.SIGCONT)
        scene.wait_for_state(run_id, "succeeded")
    lines = SpoolTail(scene.files.attempt_dir(run_id, 1) / "events.jsonl").read()
    with pytest.raises(StaleToken), scene.database.writing() as session:
        recordings.record(session, run_id, claim.token, lines)
    assert_resumed_whole(scene, run_id, undisturbed)


def test_a_silent_runner_is_told_on_the_page_and_a_cancel_still_ends_it(scene: Scene) -> None:
    patience = Patience(cancel_terminate=0.5, cancel_kill=1.0)
    with scene.supervising(Mishap("step.begun", "deaf", 5), silent_seconds=1.0, patience=patience):
        run_id = scene.launch()
        wait_until(lambda: len(scene.spooled_steps(run_id, 1)) == 4)  # on a busy machine it is silent before, too
        wait_until(lambda: "silent_runner" in scene.findings(run_id))
        found = scene.findings(run_id)["silent_runner"]
        page = scene.page(run_id)
        assert scene.rest.post(f"/api/v1/runs/{run_id}/cancel").status_code in (200, 202)
        scene.wait_for_state(run_id, "cancelled")
    assert (found["severity"], found["title"]) == ("warning", "Nothing is heard of the runner")
    assert "cancel the run" in found["remedy"]
    assert found["title"] in page
    assert scene.run(run_id)["attempt"] == 1
    assert STEPS > len(scene.spooled_steps(run_id, 1)) == 4
