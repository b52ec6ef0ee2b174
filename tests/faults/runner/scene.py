"""Where a fault happens and how it is judged: a supervisor with real runners on one side, REST and pages on the other.

The judge speaks to the whole web application over the same database; it knows no internals but the layout of the data folder.
"""

import hashlib
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from safetensors.torch import load_file

from app.main import create_app
from app.services import accounts
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import User
from tests.conftest import Library, make_library
from tests.faults.runner.mishaps import RUNNER_COMMAND, Mishap
from tests.flow import real_runs
from tests.flow.real_runs import TIMED
from tests.waiting import wait_until
from tests.web.client import Client
from tests.worker.workshop import Workshop
from worker.supervision.attempt import Patience
from worker.supervision.process import is_frozen
from worker.supervisor import Supervisor

URL = "http://127.0.0.1:8400"
STEPS, CHECKPOINT_EVERY = 12, 3
TRAINING = {"batch_size": 4, "steps": STEPS, "learning_rate": 1e-2, "checkpoint_every": CHECKPOINT_EVERY, "seed": 3}
EVALUATION = {"share": 0.1, "num_prompts": 2, "num_samples_shown": 1, "max_new_tokens": 6, "every": 6}
TOKENS = {"max_prompt": 64, "max_response": 48}
Result = tuple[str, dict[str, list[list[float | None]]]]


class Scene:
    """A studio without processes of its own: supervisors are threads of the test, runners are real."""

    def __init__(self, settings: Settings, database: Database, workshop: Workshop, library: Library | None = None) -> None:
        self.settings, self.database, self.files = database.settings, database, Files(settings.root)
        self.library = library or make_library(database)
        real_runs.stock(database, self.files, self.library, workshop)
        self.app = create_app(self.settings.model_copy(update={"port": 8400}))
        with database.writing() as session:
            user = session.get(User, self.library.user.id)
            assert user is not None
            token, link = accounts.create_token(session, user, "test"), accounts.create_login_link(session, user)
        self._stack = ExitStack()
        self.rest = Client(self.app, base_url=URL, headers={"authorization": f"Bearer {token}"})
        self.browser = Client(self.app, base_url=URL, headers={"origin": URL}, follow_redirects=False)
        self.rest.portal = self.browser.portal = self._stack.enter_context(start_blocking_portal())  # one loop for all requests
        assert self.browser.post(f"/login/{link}").status_code == 303

    def close(self) -> None:
        self._stack.close()
        self.app.state.ingest.close()  # a data set that was made leaves an idle child
        self.app.state.database.close()

    def launch(self, **parts: dict[str, Any]) -> str:
        """A run of the tiny recipe; `parts` change single keys of its sections."""
        sections: dict[str, dict[str, Any]] = {"training": TRAINING, "evaluation": EVALUATION, "tokens": TOKENS}
        recipe = {name: {**section, **parts.pop(name, {})} for name, section in sections.items()} | parts
        return self.launch_recipe(self.library.recipe(**recipe).to_dict())

    def launch_recipe(self, recipe: dict[str, Any]) -> str:
        answer = self.rest.post("/api/v1/runs", json=recipe)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    @contextmanager
    def supervising(self, *mishaps: Mishap, patience: Patience | None = None, **changes: Any) -> Iterator[Supervisor]:
        """A supervisor whose runners meet these mishaps (as arguments of their program); stopped and waited for at the end."""
        changed = self.settings.model_copy(update={"runner_threads": 1, "lease_seconds": 30.0, "grace_seconds": 60.0, **changes})
        told = (*RUNNER_COMMAND, *map(str, mishaps))
        supervisor = Supervisor(changed, self.database, self.files, runner_command=told, patience=patience, gpus=[])
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            yield supervisor
        finally:
            supervisor.stop()
            thread.join(120)
            assert not thread.is_alive()

    def get(self, path: str) -> Any:
        answer = self.rest.get(path)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_constant=refuse_constant)

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/api/v1/runs/{run_id}")
        return found

    def page(self, run_id: str) -> str:
        answer = self.browser.get(f"/runs/{run_id}")
        assert answer.status_code == 200
        return str(answer.text)

    def wait_for_state(self, run_id: str, state: str) -> dict[str, Any]:
        """The run once it is in `state`; fails at once when it ends in another."""

        def reached() -> bool:
            run = self.run(run_id)
            assert run["state"] == state or run["state"] not in ("succeeded", "failed", "cancelled"), self.explain(run_id)
            return bool(run["state"] == state)

        wait_until(reached, f"state {state} of {run_id}")
        return self.run(run_id)

    def wait_for_step(self, run_id: str, step: int) -> None:
        wait_until(lambda: bool(self.run(run_id)["step"] >= step), f"step {step} of {run_id}")

    def explain(self, run_id: str) -> str:
        logs = sorted(self.files.run_dir(run_id).glob("attempts/*/log.txt"))
        return json.dumps(self.run(run_id), indent=1) + "".join(f"\n{path}:\n{path.read_text()[-2000:]}" for path in logs)

    def journal(self, run_id: str, *kinds: str) -> list[dict[str, Any]]:
        """The journal's entries in order, which has no gap."""
        entries: list[dict[str, Any]] = []
        while page := self.get(f"/api/v1/runs/{run_id}/events?after={len(entries)}")["items"]:
            entries += page
        assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
        return [entry for entry in entries if not kinds or entry["kind"] in kinds]

    def is_stopped(self, run_id: str, attempt: int = 1) -> bool:
        """Whether the attempt's runner stands still (SIGSTOP)."""
        if not (self.files.attempt_dir(run_id, attempt) / "process.json").exists():
            return False
        return is_frozen(self.runner_pid(run_id, attempt))

    def wait_until_asked(self, run_id: str) -> None:
        """Until SIGTERM waits for the first attempt's runner, which stands still."""
        status = Path(f"/proc/{self.runner_pid(run_id)}/status")

        def is_pending() -> bool:
            lines = status.read_text(encoding="utf-8").splitlines()
            masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
            return any(mask & (1 << (signal.SIGTERM - 1)) for mask in masks)

        wait_until(is_pending)

    def states(self, run_id: str) -> list[str]:
        return [entry["payload"]["state"] for entry in self.journal(run_id, "state")]

    def findings(self, run_id: str) -> dict[str, dict[str, Any]]:
        return {one["payload"]["name"]: one["payload"] for one in self.get(f"/api/v1/runs/{run_id}/findings")["items"]}

    def result(self, run_id: str) -> Result:
        """Digest of the trained weights, and every series that is not a measurement of time, as REST tells them."""
        found = self.get(f"/api/v1/runs/{run_id}/metrics?points=5000")
        series = {key: one["points"] for key, one in found.items() if key not in TIMED}
        for points in series.values():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)), "a step has more than one value"
        artifacts = {item["name"]: item["sha256"] for item in self.get(f"/api/v1/runs/{run_id}/artifacts")}
        weights = self.files.artifact_path(run_id, "model/model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == artifacts["model/model.safetensors"]
        return artifacts["model/model.safetensors"], series

    def checkpoints(self, run_id: str) -> list[str]:
        return sorted(path.name for path in self.files.checkpoints_dir(run_id).glob("step-*"))

    def weights_digest(self, run_id: str, step: int) -> str:
        """sha256 of all weights in a checkpoint, without the optimizer's state."""
        tensors = load_file(self.files.checkpoints_dir(run_id) / f"step-{step:06d}" / "tensors.safetensors")
        digest = hashlib.sha256()
        for name in sorted(name for name in tensors if name.startswith("value/")):
            digest.update(tensors[name].numpy().tobytes())
        return digest.hexdigest()

    def temporary_files(self, run_id: str) -> list[str]:
        """Whatever is left in the run's folder that was to be renamed."""
        return [str(path) for path in self.files.run_dir(run_id).rglob("*.part")]

    def spooled_steps(self, run_id: str, attempt: int) -> list[dict[str, Any]]:
        path = self.files.attempt_dir(run_id, attempt) / "events.jsonl"
        lines = (
            [json.loads(line, parse_constant=refuse_constant) for line in path.read_bytes().split(b"\n")[:-1]]
            if path.exists()
            else []
        )
        return [line for line in lines if line["kind"] == "step"]

    def logged_steps(self, run_id: str) -> list[int]:
        """Steps of the run's metrics.jsonl, in the order of its lines."""
        strict = partial(json.loads, parse_constant=refuse_constant)
        lines = map(strict, self.files.artifact_path(run_id, "metrics.jsonl").read_text().splitlines())
        return [line["step"] for line in lines if line["kind"] == "step"]

    def runner_pid(self, run_id: str, attempt: int = 1) -> int:
        path = self.files.attempt_dir(run_id, attempt) / "process.json"
        wait_until(path.exists)
        return int(json.loads(path.read_text())["pid"])


def assert_resumed_whole(scene: Scene, run_id: str, undisturbed: Result) -> None:
    """Requeued once, attempt 2, from a checkpoint or the start; equal to the undisturbed run; one success; nothing temporary."""
    run = scene.run(run_id)
    assert (run["state"], run["attempt"]) == ("succeeded", 2), scene.explain(run_id)
    assert scene.states(run_id) == ["queued", "running", "interrupted", "queued", "running", "succeeded"]
    (resumed,) = scene.journal(run_id, "resume")
    step = resumed["payload"]["step"]
    assert resumed["payload"]["checkpoint"] == (f"step-{step:06d}" if step else "")
    assert scene.result(run_id) == undisturbed
    assert scene.logged_steps(run_id) == list(range(1, STEPS + 1))
    assert scene.temporary_files(run_id) == []


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def flip_byte(path: Path, place: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])
