"""The runner as an operating-system process: spawned in a session of its own, so that all it starts can be killed.

Who runs an attempt is noted in `process.json` beside its spec: a process number, and a mark that the runner and whatever it
starts carry in their environment. By the mark a later supervisor finds what an earlier one left behind, on this machine and
nowhere else, and never a stranger that was given the same number.
"""

import json
import logging
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from app.store.files.files import write_atomic
from app.system.installation import inherit_environment

RECORD = "process.json"
MARK = "STUDIO_RUNNER_MARK"
KILL_WAIT_SECONDS = 10.0
# The runner needs none of these, so it doesn't get them.
SECRETS = (
    "STUDIO_SECRET", "STUDIO_DATABASE_URL", "STUDIO_BROKER_URL", "STUDIO_STORE_URL", "STUDIO_STORE_ENDPOINT",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spawned:
    """A process in a session of its own, with what it was given: its mark, and the environment that was asked for."""

    popen: "subprocess.Popen[bytes]"
    mark: str
    environment: Mapping[str, str]

    def hand(self, words: bytes) -> bool:
        """Write into its standard input and close it; False when it has ended before it could read."""
        assert self.popen.stdin is not None
        try:
            with self.popen.stdin as pipe:
                pipe.write(words)
        except BrokenPipeError:
            return False
        return True

    def end(self) -> None:
        """End it, and wait for that; one that was reaped is left alone, as its number may belong to a stranger."""
        if self.popen.poll() is None:
            kill_group(self.popen.pid)
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel
                self.popen.wait(KILL_WAIT_SECONDS)
        if self.popen.stdin is not None:
            with suppress(BrokenPipeError):
                self.popen.stdin.close()


def inherit_without_secrets() -> dict[str, str]:
    """Return our environment for a child that speaks to no server of ours."""
    return {name: value for name, value in inherit_environment().items() if name not in SECRETS}


def spawn(command: Sequence[str], output: IO[bytes] | None, environment: Mapping[str, str], stdin: int) -> Spawned:
    """Start a process without our secrets, in a session of its own; without `output` it writes where we do."""
    mark = secrets.token_hex(16)
    popen = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        env={**inherit_without_secrets(), **environment, MARK: mark},
        start_new_session=True,
    )
    return Spawned(popen, mark, dict(environment))


class RunnerProcess:
    """One running attempt."""

    def __init__(
        self, command: Sequence[str], attempt_dir: Path, environment: Mapping[str, str], keys: Mapping[str, str] | None = None,
        waiting: Spawned | None = None,
    ) -> None:  # fmt: skip
        """Start the command, or let the `waiting` runner begin.

        `keys` of endpoints are written into its standard input: they stand in no argument, environment or file.
        """
        told = json.dumps(dict(keys)).encode() if keys else b""
        if waiting is not None and waiting.hand(os.fsencode(attempt_dir) + b"\n" + told):
            spawned = waiting
        else:
            if waiting is not None:
                waiting.end()  # it was dying: reap it
            with (attempt_dir / "log.txt").open("ab") as output:
                stdin = subprocess.PIPE if keys else subprocess.DEVNULL
                spawned = spawn([*command, str(attempt_dir)], output, environment, stdin)
            if keys:
                spawned.hand(told)  # one that is gone already is seen at the next poll
        self._popen, self.pid = spawned.popen, spawned.popen.pid
        self._is_swept = False
        try:
            write_atomic(attempt_dir / RECORD, json.dumps({"pid": self.pid, "mark": spawned.mark}).encode())
        except Exception:  # nobody would find what is not noted: a full disk leaves no runner behind
            spawned.end()
            raise

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal that ended it), None while it runs. Reaps it."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Ask it to save and go. Only the leader is asked: it knows what to do with its children."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started, at once. Harmless when repeated: a reaped number may belong to a stranger."""
        if self._is_swept:
            return
        kill_group(self.pid)
        with suppress(subprocess.TimeoutExpired):  # stuck in the kernel: the next poll sees its end
            self._popen.wait(KILL_WAIT_SECONDS)
            self._is_swept = True


def kill_group(pid: int) -> None:
    """SIGKILL for the whole process group; one that is gone is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_leftovers(attempts_dir: Path) -> int:
    """End what still runs of a run's earlier attempts on this machine; returns of how many.

    Raises TimeoutError when one can't be ended.
    """
    num_killed = 0
    for path in attempts_dir.glob(f"*/{RECORD}"):
        mark = json.loads(path.read_bytes()).get("mark")
        if mark and find_marked(mark):
            log.warning("ending the runner that attempt %s left behind", path.parent.name)
            _kill_marked(mark)
            num_killed += 1
    return num_killed


def _kill_marked(mark: str) -> None:
    deadline = time.monotonic() + KILL_WAIT_SECONDS
    while found := find_marked(mark):  # more than once: they may have been starting others
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {found[0].pid} does not end")
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)  # its own parent reaps it


def find_marked(mark: str) -> list[psutil.Process]:
    """Return the living processes that carry the mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def is_frozen(pid: int) -> bool:
    """Return whether the process is stopped (SIGSTOP) or held by a debugger."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False
