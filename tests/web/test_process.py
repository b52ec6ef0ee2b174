"""The web process as it runs: without torch, small, and quick to its first page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.flow.studio import free_port
from tests.waiting import END_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
MAX_MEMORY_BYTES = 140 * 10**6  # 132 MB with the routes and pages of eleven nouns; torch or Arrow would be far above
MAX_PAGE_SECONDS = 0.2


@pytest.mark.process
def test_the_web_process_is_small_quick_and_torch_free(tmp_path, clock):
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "STUDIO_DATA_DIR": str(tmp_path),
        "STUDIO_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    made = subprocess.run(
        [sys.executable, "-m", "app.cli", "tokens", "create"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    headers = {"authorization": f"Bearer {made.stdout.strip()}"}
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port), "--log-level", "error"]
    web = subprocess.Popen(command, env=environment, cwd=tmp_path)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
            wait_until(lambda: is_up(client), "the start of the web")
            busy_before = busy_seconds(web.pid)
            started = time.perf_counter()
            assert client.get("/").status_code == 200
            first_page_seconds = time.perf_counter() - started
            busy = busy_seconds(web.pid) - busy_before
            rows = b"".join(b'{"prompt": "%d?", "chosen": "yes", "rejected": "no"}\n' % n for n in range(50))
            made_id = client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", rows)}).json()["id"]
            assert "yes" in client.get(f"/datasets/{made_id}").text
            for path in ("/datasets", "/models", "/docs", "/api/v1/runs", "/api/v1/datasets", "/static/studio.css"):
                assert client.get(path).status_code == 200, path
            metrics = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
        memory_bytes = int(float(metrics["process_resident_memory_bytes"]))
        loaded = Path(f"/proc/{web.pid}/maps").read_text(encoding="utf-8")
    finally:
        web.send_signal(signal.SIGTERM)
        web.wait(END_SECONDS)
    print(json.dumps({"memory_bytes": memory_bytes, "first_page_seconds": round(first_page_seconds, 4), "busy": busy}))
    assert "libtorch" not in loaded
    assert "libarrow" not in loaded
    assert memory_bytes < MAX_MEMORY_BYTES
    clock.check(busy, MAX_PAGE_SECONDS)


def busy_seconds(pid: int) -> float:
    """Processor time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
