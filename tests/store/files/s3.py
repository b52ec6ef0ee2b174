"""A local S3-compatible server (moto) in a process of its own, and what tests do to it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.flow.studio import free_port
from tests.waiting import END_SECONDS

BUCKET = "studio-files"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret-42", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class S3Server:
    """A running server; `url` is its endpoint, `prefix` the store to name in STUDIO_STORE_URL."""

    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def prefix(self) -> str:
        return f"s3://{BUCKET}/var"

    @property
    def environment(self) -> dict[str, str]:
        """What a studio that keeps its files there is told."""
        return {**CREDENTIALS, "STUDIO_STORE_URL": self.prefix, "STUDIO_STORE_ENDPOINT": self.url}

    def clear(self) -> None:
        """Forget everything but the empty bucket."""
        httpx.post(f"{self.url}/moto-api/reset", timeout=30, verify=False).raise_for_status()
        httpx.put(f"{self.url}/{BUCKET}", timeout=30).raise_for_status()


@contextmanager
def running_s3(
    log: Path, *, host: str = "127.0.0.1", wrapper: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Iterator[S3Server]:
    """The server with one bucket; `wrapper` goes before the command, to start it elsewhere."""
    port = free_port()
    command = [*wrapper, sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**environment, **CREDENTIALS}, start_new_session=True
        )
    server = S3Server(f"http://{host}:{port}", process)
    try:
        deadline = time.monotonic() + 60
        while not _is_up(server.url):
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
            assert time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.1)
        httpx.put(f"{server.url}/{BUCKET}", timeout=30).raise_for_status()
        yield server
    finally:
        process.kill()
        process.wait(END_SECONDS)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/", timeout=5, verify=False).status_code < 500
    except httpx.HTTPError:
        return False
