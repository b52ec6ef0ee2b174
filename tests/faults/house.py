"""A studio of separate processes, one web and any number of workers, whose servers may be reached through proxies.

The workers' runner is the stand-in of tests/flow: what is tested is everything around it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from app.services import accounts
from app.settings import Settings
from app.store import workers
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import User
from tests import warm
from tests.conftest import CHECKOUT, Library, make_library
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until

WORK = CHECKOUT / "tests" / "flow" / "work.py"
QUICK = {"heartbeat_seconds": "0.5", "lease_seconds": "4", "poll_seconds": "0.5", "grace_seconds": "10"}


class House:
    """`database` and `settings` reach the servers directly; the processes go through `seen_…`, perhaps a proxy."""

    def __init__(self, folder: Path, settings: Settings, *, seen_database_url: str = "", seen_broker_url: str = "") -> None:
        self.folder, self.settings = folder, settings
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen = {
            "STUDIO_DATABASE_URL": seen_database_url or settings.database_url,
            "STUDIO_BROKER_URL": seen_broker_url or settings.broker_url,
        }
        self.files = Files(settings.root)
        self.database = Database(settings)
        self.database.migrate()
        self.library: Library = make_library(self.database)
        with self.database.writing() as session:
            user = session.get(User, self.library.user.id)
            assert user is not None
            self.token = accounts.create_token(session, user, "test")
        self.headers = {"authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=60, verify=False)
        self.web: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def recipe(self) -> dict[str, Any]:
        return self.library.recipe().to_dict()

    def environment(self, **settings: str) -> dict[str, str]:
        """What a process of this house is told; `settings` as keywords."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
        own = {
            "STUDIO_DATA_DIR": str(self.settings.root),
            "STUDIO_PORT": str(self.port),
            "PYTHONPATH": str(CHECKOUT),
            **self.seen,
        }
        own |= {f"STUDIO_{name.upper()}": value for name, value in settings.items()}
        return {**kept, **own}

    def start_process(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """A process in a session of its own, whose output goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return warm.Popen(command, env=environment, cwd=CHECKOUT, stdout=log, stderr=log, start_new_session=True)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start_web(self, *, port: int | None = None, **settings: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port or self.port),
            "--log-level", "warning", "--timeout-graceful-shutdown", "1",
        ]  # fmt: skip
        self.web = self.start_process("web", command, self.environment(**settings))
        wait_until(self.answers, what="the start of the web")
        return self.web

    def answers(self) -> bool:
        """Whether the web is up; fails the test when it has ended."""
        assert self.web is not None
        assert self.web.poll() is None, self.log("web")
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def kill_web(self) -> None:
        """SIGKILL."""
        assert self.web is not None
        self.web.kill()
        self.web.wait()

    def start_worker(
        self, *arguments: str, program: Path = WORK, wait: bool = True, environment: dict[str, str] | None = None, **settings: str
    ) -> subprocess.Popen[bytes]:
        """A worker whose stand-in gets `arguments`; with `wait` it has beaten once when this returns."""
        name = settings.get("worker_name", f"worker-{len(self.workers)}")
        given = self.environment(**{**QUICK, "worker_name": name, **settings}) | (environment or {})
        worker = self.start_process(name, [sys.executable, str(program), *arguments], given)
        self.workers.append(worker)
        if wait:
            wait_until(lambda: name in self.worker_names() or worker.poll() is not None, what=f"the start of {name}")
            assert worker.poll() is None, self.log(name)
        return worker

    def worker_names(self) -> list[str]:
        with self.database.reading() as session:
            return [worker.id for worker in workers.list_workers(session)]

    def launch(self, **headers: str) -> str:
        answer = self.http.post("/api/v1/runs", json=self.recipe, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_for_end(self, run_id: str, seconds: float = END_SECONDS) -> dict[str, Any]:
        """The run in a final state."""

        def ended() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run["finished_at"] else None

        found: dict[str, Any] = wait_until(ended, f"the end of {run_id}", seconds=seconds)
        return found

    def wait_for_step(self, run_id: str, step: int) -> None:
        wait_until(lambda: self.run(run_id)["step"] >= step, what=f"step {step} of {run_id}")

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """The whole journal."""
        found: list[dict[str, Any]] = []
        while page := self.http.get(f"/api/v1/runs/{run_id}/events?after={len(found)}").json()["items"]:
            found += page
        return found

    def states(self, run_id: str) -> list[str]:
        return [event["payload"]["state"] for event in self.events(run_id) if event["kind"] == "state"]

    def assert_whole(self, run_id: str, steps: int = 20, attempts: int = 1) -> None:
        """It succeeded once, in so many attempts; the journal is dense and each step's loss is there once with its value."""
        run, events = self.run(run_id), self.events(run_id)
        assert (run["state"], run["attempt"]) == ("succeeded", attempts)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        states = self.states(run_id)
        assert (states.count("succeeded"), states.count("running"), states[-1]) == (1, attempts, "succeeded")
        series = self.http.get(f"/api/v1/runs/{run_id}/metrics?keys=loss&points=5000").json()
        assert [tuple(point) for point in series["loss"]["points"]] == [(step, 1.0 / step) for step in range(1, steps + 1)]
        if attempts == 1:
            assert [event["payload"]["step"] for event in events if event["kind"] == "step"] == list(range(1, steps + 1))

    def close(self) -> None:
        """End all processes of the house."""
        for process in [*self.workers, self.web]:
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in [*self.workers, self.web]:
            if process is not None:
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self.http.close()
        self.database.close()


class StreamReader(threading.Thread):
    """Follows the live stream of a run to its end, as a browser does: when it is cut off, it comes back with Last-Event-ID."""

    def __init__(self, url: str, headers: dict[str, str], run_id: str) -> None:
        super().__init__(daemon=True)
        self.url, self.headers, self.run_id = url, headers, run_id
        self.seqs: list[int] = []
        self.entries: list[dict[str, Any]] = []
        self.num_connections = 0
        self.statuses: set[int] = set()
        self.finished = False
        self.leaving = False

    def run(self) -> None:
        while not self.finished and not self.leaving:
            try:
                self.follow()
            except httpx.TransportError:
                time.sleep(0.05)

    def follow(self) -> None:
        headers = {**self.headers, **({"last-event-id": str(self.seqs[-1])} if self.seqs else {})}
        path = f"{self.url}/api/v1/runs/{self.run_id}/stream"
        with httpx.stream("GET", path, headers=headers, timeout=30, verify=False) as response:
            self.num_connections += 1
            self.statuses.add(response.status_code)
            if response.status_code == 204:
                self.finished = True
                return
            if response.status_code != 200:
                time.sleep(0.2)
                return
            for event in parse_events(response.iter_lines()):
                if event.get("event") == "end":
                    self.finished = True
                    return
                if "id" in event:
                    self.seqs.append(int(event["id"]))
                    self.entries.append(json.loads(event["data"]))


def parse_events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Whole server-sent events: one that was cut off before its empty line counts as never received, as in browsers."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
