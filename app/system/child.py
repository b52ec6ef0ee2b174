"""A child process that answers JSON lines: one job a line in, one reply a line out.

child = Child(module_command("app.ingest"))                  for line, reply in read_jobs():
reply = child.ask({"source": …}, 60)                             reply(answer(json.loads(line)))
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from app.system.files import never
from app.system.installation import ROOT, SAFE_PATH

ENVIRONMENT = {  # nothing secret reaches the child
    **SAFE_PATH,
    "PYTHONPATH": str(ROOT),
    "PYTHONUTF8": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
LOOK_SECONDS = 0.2  # how often whoever waits for a reply is called meanwhile
LEAVE_SECONDS = 1.0  # from closing its output to the end
READ_BYTES = 2**20
MAX_REPLY_BYTES = 64 * 2**20


class ReplyLost(Exception):
    """A child gave no reply, so it must be stopped. `why`: it has ended, was too late, wrote too much, or no JSON object."""

    def __init__(self, why: Literal["ended", "late", "large", "unreadable"], status: int | None = None) -> None:
        super().__init__(f"{why}, exit status {status}")
        self.why, self.status = why, status


class Child:
    """A process in a session of its own; it ends when its stdin does."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, start_new_session=True
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Mapping[str, Any], seconds: float, meanwhile: Callable[[], None] = never) -> dict[str, Any]:
        """Return the reply to one job. `meanwhile` is called now and then, and may raise. Raises ReplyLost."""
        deadline = time.monotonic() + seconds
        try:
            self._send(json.dumps(job).encode() + b"\n", deadline, meanwhile)
            reply = json.loads(self._receive(deadline, meanwhile))
            if not isinstance(reply, dict):
                raise ValueError
        except (OSError, EOFError):
            self._let_leave()
            raise ReplyLost("late" if time.monotonic() >= deadline else "ended", self._process.poll()) from None
        except (ValueError, RecursionError):
            raise ReplyLost("unreadable") from None
        return reply

    def _send(self, job: bytes, deadline: float, meanwhile: Callable[[], None]) -> None:
        assert self._process.stdin is not None
        stdin, left = self._process.stdin.fileno(), memoryview(job)
        while left:
            wait = self._look(deadline, meanwhile)
            if is_ready(stdin, select.POLLOUT, wait):
                left = left[os.write(stdin, left) :]

    def _receive(self, deadline: float, meanwhile: Callable[[], None]) -> bytes:
        assert self._process.stdout is not None
        stdout, line = self._process.stdout.fileno(), bytearray()
        while not line.endswith(b"\n"):
            wait = self._look(deadline, meanwhile)
            if not is_ready(stdout, select.POLLIN, wait):
                continue
            piece = os.read(stdout, READ_BYTES)
            if not piece:
                raise EOFError
            line += piece
            if len(line) > MAX_REPLY_BYTES:
                raise ReplyLost("large")
        return bytes(line)

    def _look(self, deadline: float, meanwhile: Callable[[], None]) -> float:
        """Call `meanwhile`; return how long to wait until the next time. Past the deadline the child is ended."""
        meanwhile()
        left = deadline - time.monotonic()
        if left <= 0:
            self.kill()
        return min(LOOK_SECONDS, max(0.0, left))

    def _let_leave(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_SECONDS)

    def kill(self) -> None:
        """End the process, with all it started; whoever waits for its reply gets none."""
        if self._process.returncode is None:  # a number that was reaped may belong to a stranger
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process and wait for it."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def is_ready(file: int, event: int, seconds: float) -> bool:
    """Wait for a file to be ready to read or write, whatever its number: select.select takes none beyond the 1024th."""
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(seconds * 1000))


def ask_once(command: Sequence[str], job: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the reply of a child that lives for one job. Raises ReplyLost."""
    child = Child(command)
    try:
        return child.ask(job, seconds)
    finally:
        child.stop()


def read_jobs(idle_seconds: float | None = None) -> Iterator[tuple[bytes, Callable[[Mapping[str, Any]], None]]]:
    """Yield, in the child, each line of stdin and what writes the reply; end with stdin, or when no line comes for so long.

    What is printed by accident goes to stderr from then on.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(answer: Mapping[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    waiting = bytearray()
    while select.select([0], [], [], idle_seconds)[0] and (piece := os.read(0, READ_BYTES)):
        waiting += piece
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            yield bytes(line), reply
