"""Hosts of our own on one machine: network namespaces joined by a bridge, each worker with its own process numbers.

All addresses are inside namespaces that are made here and removed at the end. The hub has database, broker, store and web; each
worker's host hangs on the bridge by one link, which can be cut.
"""

import ctypes
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.box.processes import Process, own_folder, unprivileged
from tests.box.servers import PATH, find_postgresql
from tests.conftest import CHECKOUT
from tests.store.files.s3 import running_s3
from tests.waiting import wait_until
from worker.supervision.process import RECORD, find_marked

HUB = "10.77.0.1"
WORKERS = {"host-a": "10.77.0.2", "host-b": "10.77.0.3"}
CLONE_NEWNET = 0x40000000


def why_not() -> str:
    """Why there can be no hosts here; empty when there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        return "network namespaces need root and the programs ip and unshare"
    name = f"vs-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.decode().strip()}"
    ip("netns", "del", name)
    return ""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def in_namespace(name: str, body: Callable[[], None]) -> None:
    """Do `body` in a thread that lives in the namespace; so do its sockets and the processes that it starts."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Path(f"/run/netns/{name}").open("rb") as file:
                assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            body()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@contextmanager
def network() -> Iterator[dict[str, str]]:
    """The namespaces by host; `hub` has a bridge, on which each host hangs by a link named like it."""
    tag = secrets.token_hex(3)
    names = {host: f"vs-{tag}-{host}" for host in ("hub", *WORKERS)}
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        hub = names["hub"]
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{HUB}/24", "dev", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for host, address in WORKERS.items():
            ip("-n", hub, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", names[host])
            ip("-n", hub, "link", "set", host, "master", "bridge", "up")
            ip("-n", names[host], "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", names[host], "link", "set", "eth0", "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class Hosts:
    """The running hosts. Made and used in a thread of the hub's namespace. `folder`: logs, and the data folder of each host."""

    def __init__(self, names: dict[str, str], folder: Path, models: Path, *, has_store: bool) -> None:
        self.names, self.folder, self.models, self.has_store = names, folder, models, has_store
        self.http = httpx.Client(base_url=f"http://{HUB}:8400", timeout=60)
        self.settings: dict[str, str] = {}
        self._stack = ExitStack()

    def data_dir(self, host: str) -> Path:
        """Each host has its own folder where there is a store, else all have the same."""
        return self.folder / (host if self.has_store else "data")

    def start(self) -> None:
        database = self._start_postgresql()
        redis = ["redis-server", "--bind", HUB, "--port", "6379", "--save", "", "--protected-mode", "no"]
        self._keep(Process("redis", redis, log=self.folder / "redis.log", environment={"PATH": PATH}, cwd=self.folder))
        self.settings = {
            **os.environ, "PYTHONPATH": str(CHECKOUT), "STUDIO_DATABASE_URL": database, "STUDIO_HOST": HUB,
            "STUDIO_BROKER_URL": f"redis://{HUB}:6379/0", "STUDIO_MODEL_ROOTS": str(self.models), "STUDIO_ALLOWED_HOSTS": HUB,
            "STUDIO_HEARTBEAT_SECONDS": "1", "STUDIO_LEASE_SECONDS": "8", "STUDIO_RUNNER_THREADS": "1",
            "STUDIO_WORKER_SLOTS": "1",
        }  # fmt: skip
        if self.has_store:
            server = self._stack.enter_context(running_s3(self.folder / "s3.log", host=HUB))
            self.settings |= server.environment
        web = ["-m", "uvicorn", "--factory", "app.main:create_app", "--host", HUB, "--port", "8400"]
        process = self._start("hub", [sys.executable, *web])
        wait_until(lambda: process.alive() and self._answers(), what="the start of the web")
        made = subprocess.run(
            [sys.executable, "-m", "app.cli", "tokens", "create", "--name", "hosts"], env=self._environment("hub"), cwd=CHECKOUT,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.http.headers["Authorization"] = f"Bearer {made.stdout.split()[-1]}"
        for host in WORKERS:
            own = ["ip", "netns", "exec", self.names[host], "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
            self._start(host, [*own, sys.executable, "-m", "worker.main"])

    def cut(self, host: str) -> None:
        """Pull the plug of the host's network."""
        ip("-n", self.names["hub"], "link", "set", host, "down")

    def join(self, host: str) -> None:
        ip("-n", self.names["hub"], "link", "set", host, "up")

    def log(self, host: str) -> str:
        return (self.folder / f"{host}.log").read_text(errors="replace")

    def runners(self, run_id: str, attempt: int) -> list[int]:
        """The processes of an attempt on any host."""
        records = self.folder.glob(f"*/runs/{run_id}/attempts/{attempt}/{RECORD}")
        return [found.pid for record in records for found in find_marked(json.loads(record.read_bytes())["mark"])]

    def get(self, path: str) -> Any:
        answer = self.http.get(f"/api/v1{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **arguments: Any) -> Any:
        answer = self.http.post(f"/api/v1{path}", **arguments)
        assert answer.status_code in (201, 202), answer.text
        return answer.json()

    def close(self) -> None:
        self.http.close()
        self._stack.close()

    def _start(self, host: str, command: list[str]) -> Process:
        log = self.folder / f"{host}.log"
        return self._keep(Process(host, command, log=log, environment=self._environment(host), cwd=CHECKOUT))

    def _keep(self, process: Process) -> Process:
        self._stack.callback(process.stop, 0)
        return process

    def _environment(self, host: str) -> dict[str, str]:
        self.data_dir(host).mkdir(exist_ok=True)
        return {**self.settings, "STUDIO_DATA_DIR": str(self.data_dir(host)), "STUDIO_WORKER_NAME": host}

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return self.http.get("/healthz").status_code == 200
        return False

    def _start_postgresql(self) -> str:
        programs = find_postgresql()
        assert programs is not None
        account = unprivileged("postgres")
        folder = own_folder(self.folder / "postgres", account)
        data, environment = folder / "data", {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": str(folder)}
        subprocess.run(
            [programs / "initdb", f"--pgdata={data}", "--username=studio", "--auth=trust", "--encoding=UTF8", "--no-sync"],
            env=environment, cwd=folder, check=True, capture_output=True, user=account, group=account, extra_groups=[],
        )  # fmt: skip
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {HUB}/24 trust\n")
        command = [str(programs / "postgres"), "-D", str(data), "-h", HUB, "-k", str(folder), "-c", "fsync=off"]
        log = self.folder / "postgres.log"
        process = self._keep(Process("postgres", command, log=log, environment=environment, cwd=folder, user=account))
        wait_until(lambda: process.alive() and "ready to accept" in process.text, what="the start of PostgreSQL")
        return f"postgresql+psycopg://studio@{HUB}:5432/postgres"


def with_hosts(body: Callable[[Hosts], None], models: Path, *, has_store: bool, logs: Path) -> None:
    """Start the hosts, do `body` on the hub, end everything, and leave the logs."""
    with tempfile.TemporaryDirectory(prefix="studio-hosts-", ignore_cleanup_errors=True) as name, network() as names:
        Path(name).chmod(0o755)  # PostgreSQL has an account of its own

        def run() -> None:
            hosts = Hosts(names, Path(name), models, has_store=has_store)
            try:
                hosts.start()
                body(hosts)
            finally:
                hosts.close()
                for path in Path(name).glob("*.log"):
                    shutil.copy(path, logs / path.name)

        in_namespace(names["hub"], run)
