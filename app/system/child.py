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
        self._unread = bytearray()
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Mapping[str, Any], seconds: float, meanwhile: Callable[[], None] = never) -> dict[str, Any]:
        """Return the reply to one job. `meanwhile` is called now and then, and may raise. Raises ReplyLost."""
        deadline = time.monotonic() + seconds
        reply = self._exchange(job, deadline, meanwhile)
        if self._unread:
            raise ReplyLost("unreadable")
        return reply

    def follow(
        self, job: Mapping[str, Any] | None, seconds: float, meanwhile: Callable[[], None] = never
    ) -> Iterator[dict[str, Any]]:
        """Yield the replies to one job as they come, or what is left of them; whoever has the last one closes.

        `seconds`: the longest silence. `meanwhile` is called now and then, and may raise. Raises ReplyLost.
        """
        while True:
            yield self._exchange(job, time.monotonic() + seconds, meanwhile)
            job = None

    def tell(self, word: Mapping[str, Any], seconds: float) -> None:
        """Say something while replies are awaited; a child that doesn't listen is left to whoever awaits them."""
        with contextlib.suppress(OSError):
            self._send(json.dumps(word).encode() + b"\n", time.monotonic() + seconds, never)

    def _exchange(self, job: Mapping[str, Any] | None, deadline: float, meanwhile: Callable[[], None]) -> dict[str, Any]:
        try:
            if job is not None:
                self._send(json.dumps(job).encode() + b"\n", deadline, meanwhile)
            reply = json.loads(self._receive(deadline, meanwhile))
            if not isinstance(reply, dict):
                raise ValueError
        except (OSError, EOFError):
            self.wait(LEAVE_SECONDS)
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
        stdout = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            wait = self._look(deadline, meanwhile)
            if not is_ready(stdout, select.POLLIN, wait):
                continue
            piece = os.read(stdout, READ_BYTES)
            if not piece:
                raise EOFError
            self._unread += piece
            if len(self._unread) > MAX_REPLY_BYTES:
                raise ReplyLost("large")
        line, _, self._unread = self._unread.partition(b"\n")
        return bytes(line)

    def _look(self, deadline: float, meanwhile: Callable[[], None]) -> float:
        """Call `meanwhile`; return how long to wait until the next time. Past the deadline the child is ended."""
        meanwhile()
        left = deadline - time.monotonic()
        if left <= 0:
            self.kill()
        return min(LOOK_SECONDS, max(0.0, left))

    def kill(self) -> None:
        """End the process, with all it started; whoever waits for its reply gets none."""
        if self._process.returncode is None:  # a number that was reaped may belong to a stranger
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait for the end of a process that was killed, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

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


class Inbox:
    """The lines of stdin, in the child."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._is_over = False

    def wait(self, seconds: float | None = None) -> bytes | None:
        """Return the next line; None when stdin has ended, or none comes for so long."""
        while b"\n" not in self._unread:
            if not self._read(seconds):
                return None
        line, _, self._unread = self._unread.partition(b"\n")
        return bytes(line)

    def has_news(self) -> bool:
        """Return whether a line waits, or stdin has ended."""
        while b"\n" not in self._unread and self._read(0):
            pass
        return self._is_over or b"\n" in self._unread

    def _read(self, seconds: float | None) -> bool:
        if self._is_over or not select.select([0], [], [], seconds)[0]:
            return False
        piece = os.read(0, READ_BYTES)
        self._unread += piece
        self._is_over = not piece
        return bool(piece)


def open_replies() -> Callable[[Mapping[str, Any]], None]:
    """Return what writes replies, in the child. What is printed by accident goes to stderr from then on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(answer: Mapping[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    return reply


def read_jobs(idle_seconds: float | None = None) -> Iterator[tuple[bytes, Callable[[Mapping[str, Any]], None]]]:
    """Yield, in the child, each line of stdin and what writes the reply; end with stdin, or when no line comes for so long."""
    inbox, reply = Inbox(), open_replies()
    while (line := inbox.wait(idle_seconds)) is not None:
        yield line, reply
