"""The web as a process of its own, and an eye on what it and its children take: memory, processor time, files left behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.commands.client import token_path
from app.commands.up import prepare
from app.settings import Settings
from tests.box.processes import Process
from tests.flow.studio import free_port
from tests.waiting import wait_until

MIB = 2**20
KEPT = {"source", "examples.parquet", "preview.json"}  # what a data set's folder may hold
CASE_SECONDS = 60.0


@dataclass
class Watch:
    """What was taken while a block ran; `peak_mib` by process id."""

    web: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: dict[int, float] = field(default_factory=dict)

    @property
    def web_mib(self) -> float:
        return self.peak_mib[self.web]

    @property
    def child_mib(self) -> float:
        """The largest of the children."""
        return max((peak for pid, peak in self.peak_mib.items() if pid != self.web), default=0.0)


@dataclass
class Web:
    """A running web process; `http` carries the administrator's token."""

    process: Process
    settings: Settings
    http: httpx.Client
    url: str

    @property
    def pid(self) -> int:
        return self.process.popen.pid

    def upload(self, content: bytes, filename: str = "data.jsonl", mapping: str = "") -> httpx.Response:
        """The answer to an upload; one that is still read then is waited for, and its state put in the answer's place."""
        fields = {"mapping": mapping} if mapping else {}
        answer = self.http.post("/api/v1/datasets", files={"file": (filename, content)}, data=fields)
        if answer.status_code != 201 or answer.json()["state"] != "processing":
            return answer
        path = f"/api/v1/datasets/{answer.json()['id']}"
        end = time.monotonic() + CASE_SECONDS
        while (now := self.http.get(path)).json()["state"] == "processing":
            assert time.monotonic() < end, f"reading {filename} takes more than {CASE_SECONDS} s"
            time.sleep(0.05)
        return now

    def dropped(self, dataset_id: str) -> dict[str, list[int]]:
        """Line numbers by reason, as the audit tells."""
        audit = self.http.get(f"/api/v1/datasets/{dataset_id}/audit").json()
        assert audit["num_rows"] == audit["num_kept_rows"] + sum(one["count"] for one in audit["dropped"])
        return {one["reason"]: one["lines"] for one in audit["dropped"]}

    def leftovers(self) -> list[str]:
        """Files below the data folder that belong to no data set, or are no part of one."""
        root = self.settings.root
        known = {one["id"] for one in self.http.get("/api/v1/datasets?limit=200").json()["items"]}
        folders = list((root / "datasets").iterdir()) if (root / "datasets").is_dir() else []
        strangers = [folder for folder in folders if folder.name not in known]
        parts = [path for folder in folders for path in folder.iterdir() if path.name not in KEPT]
        uploads = list((root / "uploads").glob("*"))
        return [str(path.relative_to(root)) for path in (*strangers, *parts, *uploads)]

    def forget(self) -> None:
        """Delete all data sets, so that the next case starts with none."""
        for one in self.http.get("/api/v1/datasets?limit=200").json()["items"]:
            assert self.http.delete(f"/api/v1/datasets/{one['id']}").status_code == 204

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """Memory peaks (from the block's start on) and time of the web and all its children, also of those that die."""
        watch, ended = Watch(self.pid), threading.Event()
        for pid in self._family():
            forget_peak(pid)
        cpu: dict[int, float] = {}

        def look() -> None:
            while True:
                for pid in self._family():
                    with suppress(OSError, StopIteration, psutil.Error):
                        watch.peak_mib[pid] = max(peak_mib(pid), watch.peak_mib.get(pid, 0.0))
                        times = psutil.Process(pid).cpu_times()
                        cpu[pid] = times.user + times.system
                if ended.wait(0.01):
                    return

        before = {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in self._family()}
        began = time.perf_counter()
        eye = threading.Thread(target=look)
        eye.start()
        try:
            yield watch
        finally:
            watch.wall_seconds = time.perf_counter() - began
            ended.set()
            eye.join()
            watch.cpu_seconds = sum(seconds - before.get(pid, 0.0) for pid, seconds in cpu.items())

    def _family(self) -> list[int]:
        with suppress(psutil.Error):
            return [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return [self.pid]


def peak_mib(pid: int) -> float:
    """Most resident memory of a process since it started, or since its peak was forgotten."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def forget_peak(pid: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="utf-8")


@contextmanager
def running_web(folder: Path, *, popen: "type[subprocess.Popen[bytes]]" = subprocess.Popen, **settings: Any) -> Iterator[Web]:
    """The web of a new studio in `folder`, as the box starts it; `settings` by their variables' names without STUDIO_.

    With tests.warm's `popen` it and its children start sooner, and hold more memory.
    """
    port = free_port()
    models = folder / "models"
    models.mkdir(exist_ok=True)
    chosen = {"data_dir": folder / "var", "model_roots": [models], "port": port, **settings}
    known = Settings(_env_file=None, **chosen)
    prepare(known)
    variables = {f"STUDIO_{name.upper()}": str(value) for name, value in chosen.items() if name != "model_roots"}
    roots = ",".join(map(str, chosen["model_roots"]))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "STUDIO_MODEL_ROOTS": roots, **variables}
    command = [
        sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port),
        "--http", "app.web.connections:Connection",
    ]  # fmt: skip
    process = Process("web", command, log=folder / "web.log", environment=environment, cwd=Path.cwd(), popen=popen)
    url = f"http://127.0.0.1:{port}"
    headers = {"authorization": f"Bearer {token_path(known).read_text().strip()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=CASE_SECONDS * 2) as http:
        try:
            wait_until(lambda: process.alive() and answers(http), what="the start of the web")
            yield Web(process, known, http, url)
            assert "Traceback" not in process.text, process.text[-4000:]
        finally:
            process.stop(10)


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
