"""A whole studio on a free port, as `varstudio up` starts it, and the few calls that the flow tests make of it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests import warm
from tests.waiting import END_SECONDS, wait_until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Studio:
    """A running studio; `http` carries its bearer token."""

    def __init__(self, data_dir: Path, *, model_roots: list[Path], **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.environment = {
            **os.environ,
            "STUDIO_DATA_DIR": str(data_dir),
            "STUDIO_MODEL_ROOTS": ",".join(map(str, model_roots)),
            "STUDIO_PORT": str(self.port),
            "STUDIO_POLL_SECONDS": "0.5",
            "STUDIO_RUNNER_THREADS": "1",  # two threads on two busy cores wait for each other more than they work
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "studio.log").open("ab") as log:
            self.process = warm.Popen(
                [sys.executable, "-m", "app.cli", "up", "--port", str(self.port)],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._ready, what=f"the start of the studio (see {self.data_dir / 'studio.log'})")

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.data_dir / "studio.log").read_text()
        token = self.data_dir / "cli-token"
        if not token.exists():
            return False
        self.http.headers["Authorization"] = f"Bearer {token.read_text().strip()}"
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        self.http.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            finally:
                with_group_gone(self.process.pid)

    def upload(self, path: Path, *, mapping: dict[str, Any] | None = None) -> httpx.Response:
        fields = {"name": path.name, **({"mapping": json.dumps(mapping)} if mapping else {})}
        with path.open("rb") as file:
            return self.http.post("/api/v1/datasets", data=fields, files={"file": (path.name, file)})

    def dataset(self, path: Path, **arguments: Any) -> str:
        """The id of the data set of `path`, ready."""
        answer = self.upload(path, **arguments)
        assert answer.status_code == 201, answer.text
        dataset_id = str(answer.json()["id"])
        wait_until(lambda: self.get(f"/api/v1/datasets/{dataset_id}")["state"] == "ready", what=f"reading {path.name}")
        return dataset_id

    def model(self, folder: Path, kind: str) -> str:
        for known in self.get(f"/api/v1/models?kind={kind}&limit=200")["items"]:
            if known["path"] == str(folder.resolve()):
                return str(known["id"])
        body = {"source": "folder", "path": str(folder), "kind": kind}
        return str(self.post("/api/v1/models", body, status=201)["id"])

    def launch(self, recipe: dict[str, Any]) -> str:
        return str(self.post("/api/v1/runs", recipe, status=202)["id"])

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, *, status: int = 200) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def wait_for_state(self, run_id: str, state: str) -> dict[str, Any]:
        """The run once it is in `state`; fails at once when it ended in another."""

        def reached() -> dict[str, Any] | None:
            run: dict[str, Any] = self.get(f"/api/v1/runs/{run_id}")
            ended = run["state"] in ("succeeded", "failed", "cancelled")
            assert not ended or run["state"] == state, (
                json.dumps(run, indent=1) + self.http.get(f"/api/v1/runs/{run_id}/log").text
            )
            return run if run["state"] == state else None

        found: dict[str, Any] = wait_until(reached, what=f"state {state} of {run_id}")
        return found

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """The whole journal, page by page."""
        after = 0
        while page := self.get(f"/api/v1/runs/{run_id}/events?after={after}")["items"]:
            yield from page
            after = page[-1]["seq"]


def with_group_gone(group: int) -> None:
    """Kill what is left of a process group that a test started."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


@contextmanager
def running_studio(data_dir: Path, *, model_roots: list[Path], **settings: str) -> Iterator[Studio]:
    studio = Studio(data_dir, model_roots=model_roots, **settings)
    try:
        studio.start()
        yield studio
    finally:
        studio.stop()
