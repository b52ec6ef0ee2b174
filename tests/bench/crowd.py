"""What the load measurements share: a studio of real processes, clients in processes of their own, and the table of results."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.commands.up import web_command
from app.domain.recipe import Recipe
from app.services import accounts, runs
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from tests.box.processes import Process
from tests.conftest import Library, make_library
from tests.flow.studio import free_port
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
ONLY_REPORT = bool(os.environ.get("LOAD_ONLY_REPORT"))  # for machines that do other work: measure, judge nothing


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


class Results:
    """Lines of the table: printed as they come, and together at the end. A line that misses its target fails its test."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, item: str, target: str, measured: str, *, met: bool = True) -> None:
        """`met` False: the test fails, unless only a report is wanted."""
        line = f"| {item} | {target} | {measured}{'' if met else ' — **missed**'} |"
        print(f"\n{line}", flush=True)
        self.lines.append(line)
        assert met or ONLY_REPORT, f"{item}: {measured}, but the target is {target}"

    def text(self) -> str:
        return "\n".join(["", "| item | target | measured |", "|---|---|---|", *self.lines, ""])


class BusyStudio:
    """One web process and, where asked for, one worker with the stand-in runner, on SQLite, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.settings = Settings(_env_file=None, data_dir=folder / "var", port=self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = Database(self.settings)
        self.database.migrate()
        self.files = Files(self.settings.root)
        self.library: Library = make_library(self.database)
        with self.database.writing() as session:
            self.token = accounts.create_token(session, accounts.accounts.get_user(session, "Ada"), "load")
        self.headers = {"authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=120)
        self.processes: list[Process] = []

    @property
    def environment(self) -> dict[str, str]:
        mine = {"STUDIO_DATA_DIR": str(self.settings.root), "STUDIO_PORT": str(self.port), "PYTHONPATH": str(CHECKOUT)}
        return {**os.environ, **mine, "OMP_NUM_THREADS": "1"}

    def start_web(self) -> None:
        """As `varstudio up` starts it."""
        self.web = self._start("web", web_command(self.settings))
        wait_until(self._answers, seconds=60, what="the start of the web")

    def start_worker(self, *command: str, slots: int = 1) -> Process:
        """The real worker, by a command that gives it other runners."""
        environment = {"STUDIO_WORKER_SLOTS": str(slots), "STUDIO_POLL_SECONDS": "0.5"}
        return self._start("worker", [sys.executable, *command], **environment)

    def _start(self, name: str, command: Sequence[str], **more: str) -> Process:
        log = self.folder / f"{name}.log"
        process = Process(name, command, log=log, environment={**self.environment, **more}, cwd=CHECKOUT)
        self.processes.append(process)
        return process

    def _answers(self) -> bool:
        try:
            return self.web.alive() and self.http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def client(self, module: str, *arguments: object) -> subprocess.Popen[str]:
        """A client in a process of its own, so that it doesn't wait for our interpreter."""
        command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=CHECKOUT, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def recipe(self) -> Recipe:
        return self.library.recipe()

    def launch(self, num_runs: int = 1) -> list[str]:
        with self.database.writing() as session:
            return [runs.launch(session, self.library.user.id, self.recipe()).id for _ in range(num_runs)]

    def stop(self) -> None:
        self.http.close()
        for process in reversed(self.processes):
            process.stop(15)
        self.database.close()


@contextmanager
def busy_studio(folder: Path) -> Iterator[BusyStudio]:
    studio = BusyStudio(folder)
    try:
        studio.start_web()
        yield studio
    finally:
        studio.stop()


def answer_of(client: subprocess.Popen[str], timeout: float = 600) -> Any:
    """What a client printed last, read as JSON."""
    output, _ = client.communicate(timeout=timeout)
    assert client.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def time_requests(http: httpx.Client, paths: Sequence[str], rounds: int) -> list[float]:
    """Seconds of each request, one after another."""
    seconds = []
    for _ in range(rounds):
        for path in paths:
            began = time.perf_counter()
            answer = http.get(path)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code == 200, f"{path}: {answer.text[:500]}"
    return seconds


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """Memory of a process now, or (VmHWM) its peak since `forget_peak`."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def forget_peak(pid: int) -> None:
    """Let VmHWM begin again at the memory of now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
