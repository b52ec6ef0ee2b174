"""A child process that answers JSON lines: one job a line in, one reply a line out."""

import contextlib
import json
import subprocess
import threading
from typing import Any

from app.system.installation import ROOT, module_command

ENVIRONMENT = {  # nothing secret reaches the child
    "PYTHONPATH": str(ROOT),
    "PYTHONUTF8": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}


class Child:
    """One process of `python -m <module>`; it ends when its stdin does."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            module_command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=ENVIRONMENT,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """The reply; None when the child died or was stopped after `timeout` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        try:
            reply = json.loads(line)
        except ValueError:
            self.stop()
            return None
        return reply if isinstance(reply, dict) else None

    def kill(self) -> None:
        """End the process; whoever waits for its reply gets none."""
        self._process.kill()

    def stop(self) -> None:
        """End the process and wait for it."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
