"""A whole studio of processes that may be killed at any moment: servers, web, workers, each started again by its own command."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

from app.settings import Settings
from tests.box.compose import read_compose
from tests.box.processes import Process
from tests.box.servers import start_postgresql, start_redis
from tests.conftest import CHECKOUT
from tests.flow.studio import free_port
from tests.waiting import wait_until

LEASE_SECONDS = 6.0
NUM_WORKERS = 3
SLOTS = 2
READY_SECONDS = 90.0


class Town:
    """One studio: `kind` is embedded (SQLite and the broker in a file) or box (PostgreSQL and Redis)."""

    def __init__(self, folder: Path, kind: str, *, models: Path | None = None) -> None:
        self.folder, self.kind = folder, kind
        self.data = folder / "data"
        self.data.mkdir()
        self.models = models or folder / "models"
        self.models.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.variables = {
            "STUDIO_DATA_DIR": str(self.data), "STUDIO_MODEL_ROOTS": str(self.models), "STUDIO_PORT": str(self.port),
            "STUDIO_HEARTBEAT_SECONDS": "1", "STUDIO_LEASE_SECONDS": str(LEASE_SECONDS), "STUDIO_POLL_SECONDS": "1",
            "STUDIO_GRACE_SECONDS": "20", "STUDIO_MAX_ATTEMPTS": "1000", "STUDIO_RUNNER_THREADS": "1",
            "STUDIO_WORKER_SLOTS": str(SLOTS),
        }  # fmt: skip
        self.postgres: Process | None = None
        self.redis: Process | None = None
        self.postgres_port = self.redis_port = 0
        self.web: Process | None = None
        self.workers: list[Process] = []
        self.token = ""

    def start(self, *, num_workers: int = NUM_WORKERS) -> None:
        """Servers, tables, a token, the web, the workers."""
        if self.kind == "box":
            self._start_servers()
        self._say("db", "upgrade")
        self.token = self._say("tokens", "create").split()[-1]
        command = ["-m", "uvicorn", "--factory", "app.main:create_app", "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "3"]
        self.web = self.process("web", [*command, *quiet])
        self.wait_for_web()
        work = str(Path(__file__).with_name("work.py"))
        self.workers = [
            self.process(f"worker-{number}", [work], STUDIO_WORKER_NAME=f"worker-{number}") for number in range(num_workers)
        ]

    def _start_servers(self) -> None:
        password = secrets.token_hex(8)
        self.postgres, self.postgres_port = start_postgresql(
            self.folder / "postgres", user="studio", database="studio", password=password
        )
        services = read_compose({"POSTGRES_PASSWORD": password, "REDIS_PASSWORD": password})
        self.redis, self.redis_port = start_redis(self.folder / "redis", services["redis"]["command"], password=password)
        self.variables |= {
            "STUDIO_DATABASE_URL": f"postgresql+psycopg://studio:{password}@127.0.0.1:{self.postgres_port}/studio",
            "STUDIO_BROKER_URL": f"redis://:{password}@127.0.0.1:{self.redis_port}/0",
        }

    def _say(self, *words: str) -> str:
        """What a command of the terminal prints."""
        command = [sys.executable, "-m", "app.cli", *words]
        done = subprocess.run(command, env=self.environment(), cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def process(self, name: str, arguments: list[str], **more: str) -> Process:
        log = self.folder / f"{name}.log"
        return Process(name, [sys.executable, *arguments], log=log, environment=self.environment(**more), cwd=CHECKOUT)

    def environment(self, **more: str) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
        return {**ours, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", **self.variables, **more}

    @property
    def settings(self) -> Settings:
        """What the processes were told, for a look at the database from outside."""
        told = {name.removeprefix("STUDIO_").lower(): value for name, value in self.variables.items()}
        return Settings(_env_file=None, **told)

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def wait_for_web(self) -> float:
        """Seconds until the web answered."""
        began = time.monotonic()
        with self.client() as client:
            wait_until(lambda: answers(client), seconds=READY_SECONDS, what=f"the start of the web (see {self.folder}/web.log)")
        return time.monotonic() - began

    def pids(self) -> dict[str, int]:
        """The long-lived processes that run now, by name."""
        named = [process for process in (self.web, *self.workers) if process is not None]
        return {process.name: process.popen.pid for process in named if process.popen.poll() is None}

    def stop(self) -> dict[str, int]:
        """SIGTERM to the workers, then to the web; their exit statuses. What does not go is killed."""
        for worker in self.workers:
            if worker.popen.poll() is None:
                worker.popen.send_signal(signal.SIGTERM)
        statuses = {worker.name: worker.stop(45) for worker in self.workers}
        if self.web is not None:
            statuses["web"] = self.web.stop(20)
        return statuses

    def stop_servers(self) -> None:
        for server in (self.redis, self.postgres):
            if server is not None:
                server.stop(20, signal.SIGINT)

    def start_server(self, server: Process, port: int) -> None:
        """Start PostgreSQL or Redis again where it was, and wait until its port is open."""
        server.start()
        wait_until(lambda: server.alive() and is_open(port), seconds=60, what=f"the new start of {server.name}")


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def processes_of(data: Path) -> dict[int, list[str]]:
    """The command lines of all processes that were started for this data folder, by their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if f"STUDIO_DATA_DIR={data}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in ("Z", "X"):
                        found[int(entry.name)] = words
    return found


def runners_of(data: Path) -> dict[int, tuple[str, int]]:
    """The runners that live now: process → (run, attempt), by their command lines."""
    found = {}
    for pid, words in processes_of(data).items():
        for word in words:
            parts = Path(word).parts
            if "attempts" in parts[:-1] and parts[-2] == "attempts" and word.startswith(str(data)):
                found[pid] = (parts[-3], int(parts[-1]))
    return found


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0
