"""How heavy and how slow the web is before anybody has done anything: `make bench ARGS=tests/bench/test_web_start.py`."""

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.box.processes import Process
from tests.flow.studio import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.bench

MAX_RESIDENT_BYTES = 120e6
MAX_PAGE_SECONDS = 0.2
LINK = re.compile(r"http://\S+(/login/\S+)")


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture
def web(tmp_path):
    port = free_port()
    environment = {"PATH": "/usr/bin:/bin", "STUDIO_DATA_DIR": str(tmp_path / "var"), "STUDIO_PORT": str(port)}
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    started = time.perf_counter()
    process = Process("web", command, log=tmp_path / "web.log", environment=environment, cwd=Path.cwd())
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return process.alive() and httpx.get(f"{url}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, seconds=60, what="the start of the web")
        yield process, url, time.perf_counter() - started
    finally:
        process.stop(10)


def test_the_web_is_light_and_its_first_page_quick(web):
    process, url, start_seconds = web
    with httpx.Client(base_url=url) as browser:
        assert browser.post(LINK.search(process.text)[1]).status_code == 303
        seconds = []
        for _ in range(20):
            began = time.perf_counter()
            assert browser.get("/").status_code == 200
            seconds.append(time.perf_counter() - began)
    resident = resident_bytes(process.popen.pid)
    torch = subprocess.run(
        ["grep", "-c", "libtorch", f"/proc/{process.popen.pid}/maps"], capture_output=True, text=True, check=False
    )
    print(
        f"\nstart {start_seconds:.1f} s, resident {resident / 1e6:.0f} MB, first page {seconds[0] * 1000:.0f} ms, "
        f"median {statistics.median(seconds) * 1000:.0f} ms"
    )
    assert torch.stdout.strip() == "0"
    assert resident < MAX_RESIDENT_BYTES
    assert seconds[0] < MAX_PAGE_SECONDS
