"""The box without Docker: the processes of docker-compose.yml with exactly its variables, from folders like its images."""

import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.box.compose import default_command, lay_out, read_compose
from tests.box.processes import Process
from tests.box.servers import start_postgresql, start_redis
from tests.flow.studio import free_port
from tests.waiting import wait_until

LOGIN_LINK = re.compile(r"(http://\S+)/login/(\S+)")


class Box:
    """A running box. `folder` holds its data, its logs (`<service>.log`) and the laid-out images."""

    def __init__(self, folder: Path, *, num_workers: int = 2) -> None:
        self.folder = folder
        self.num_workers = num_workers
        self.web_port = free_port()
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.models = folder / "models"
        self.models.mkdir()
        # What a user writes into .env.
        self.variables = {
            "POSTGRES_PASSWORD": secrets.token_hex(16), "REDIS_PASSWORD": secrets.token_hex(16),
            "STUDIO_PUBLIC_URL": self.url, "STUDIO_MODELS_FOLDER": str(self.models), "COMPOSE_PROFILES": "cpu",
        }  # fmt: skip
        self.services = read_compose(self.variables)
        self.moved: dict[str, str] = {}
        self.workers: list[Process] = []
        self.web: Process | None = None
        self._stack = ExitStack()

    def start(self) -> None:
        """Servers, then the migrations, then web and workers: the order that `depends_on` asks for."""
        for name in ("web", "worker-cpu"):
            lay_out(self.services[name]["build"]["dockerfile"], self.folder / "images" / name)
        self._start_servers()
        migration = self._start("migrate", image="web")
        assert migration.popen.wait(60) == 0, migration.text
        self.web = self._start("web", keep=True)
        wait_until(lambda: self.web.alive() and self._answers("/healthz"), what="the start of the web")
        self.workers = [self._start("worker-cpu", number=number, keep=True) for number in range(1, self.num_workers + 1)]
        wait_until(self._workers_are_ready, what="the start of the workers")

    def _workers_are_ready(self) -> bool:
        """Each listens to the broker, and the container's health check finds them."""
        if not all(worker.alive() and " ready." in worker.text for worker in self.workers):
            return False
        check = self.services["worker-cpu"]["healthcheck"]["test"]
        tree = self.folder / "images" / "worker-cpu"
        environment = self.environment(self.services["worker-cpu"]["environment"], tree)
        return subprocess.run([self.program(check[1]), *check[2:]], cwd=tree, env=environment, check=False).returncode == 0

    def _start_servers(self) -> None:
        wanted = self.services["postgres"]["environment"]
        postgres, postgres_port = start_postgresql(
            self.folder / "postgres", user=wanted["POSTGRES_USER"], database=wanted["POSTGRES_DB"],
            password=wanted["POSTGRES_PASSWORD"],
        )  # fmt: skip
        self._stack.callback(postgres.stop, 20)
        redis, redis_port = start_redis(
            self.folder / "redis",
            self.services["redis"]["command"],
            password=self.services["redis"]["environment"]["REDIS_PASSWORD"],
        )
        self._stack.callback(redis.stop, 10)
        self.moved = {
            "@postgres:5432": f"@127.0.0.1:{postgres_port}",
            "@redis:6379": f"@127.0.0.1:{redis_port}",
            "/data": str(self.folder / "data"),
            "/models": str(self.models),
        }

    def _start(self, service: str, *, image: str | None = None, number: int | None = None, keep: bool = False) -> Process:
        """A process as the container of `service` would start it."""
        tree = self.folder / "images" / (image or service)
        described = self.services[service]
        command = described.get("command") or default_command(described["build"]["dockerfile"])
        process = Process(
            service, [self.program(command[0]), *map(self._argument, command[1:])], cwd=tree,
            log=self.folder / f"{service}{number or ''}.log", environment=self.environment(described["environment"], tree),
        )  # fmt: skip
        if keep:
            self._stack.callback(process.stop, 30)
        return process

    def environment(self, given: Mapping[str, str], tree: Path) -> dict[str, str]:
        """The service's own variables, with hosts and folders moved to this machine; nothing of ours but what Python needs."""
        own = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(tree), "HOME": str(self.folder)}
        limits = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        moved = {}
        for name, value in given.items():
            for there, here in self.moved.items():
                value = value.replace(there, here) if there.startswith("@") else re.sub(rf"^{there}$", here, value)
            moved[name] = value
        return {**own, **limits, **moved}

    def program(self, name: str) -> str:
        return str(Path(sys.executable).with_name(name)) if name != "python" else sys.executable

    def _argument(self, text: str) -> str:
        return {"0.0.0.0": "127.0.0.1", "8400": str(self.web_port)}.get(text, text)

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(f"{self.url}{path}", timeout=5, verify=False).status_code == 200
        except httpx.HTTPError:
            return False

    def login_link(self) -> str:
        """The secret of the one-time link that the web printed at its first start."""
        link = wait_until(lambda: LOGIN_LINK.search(self.web.text), what="the login link in the log of the web")
        assert link[1] == self.url
        return str(link[2])

    def stop(self) -> dict[str, int]:
        """SIGTERM to workers and web, as `docker compose stop` sends it; their exit statuses. Then the servers."""
        statuses = {f"{worker.name}{index}": worker.stop(30) for index, worker in enumerate(self.workers, 1)}
        if self.web is not None:
            statuses["web"] = self.web.stop(15)
        self._stack.close()
        return statuses

    def secrets(self) -> list[str]:
        """What must never be in a log."""
        return [self.variables["POSTGRES_PASSWORD"], self.variables["REDIS_PASSWORD"]]

    def logs(self) -> dict[str, str]:
        return {path.stem: path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log"))}


@contextmanager
def running_box(**options: Any) -> Iterator[Box]:
    """A box in a folder that other users may enter: the servers run under accounts of their own."""
    with tempfile.TemporaryDirectory(prefix="studio-box-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        box = Box(folder, **options)
        try:
            box.start()
            yield box
        finally:
            box.stop()
