"""The runner as an operating-system process: spawned in a session of its own, so that all it starts can be killed.

Who runs an attempt is noted in `process.json` beside its spec. A later supervisor of the same machine finds there what an
earlier one left behind; start time, boot and process namespace tell it from a stranger that was given the same number.
"""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from app.store.files.files import write_atomic

RECORD = "process.json"
KILL_WAIT_SECONDS = 10.0
# The runner needs none of these, so it doesn't get them.
SECRETS = (
    "STUDIO_DATABASE_URL", "STUDIO_BROKER_URL", "STUDIO_STORE_URL", "STUDIO_STORE_ENDPOINT",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
)  # fmt: skip

log = logging.getLogger(__name__)


class RunnerProcess:
    """One running attempt."""

    def __init__(self, command: Sequence[str], attempt_dir: Path, environment: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
        with (attempt_dir / "log.txt").open("ab") as output:
            self._popen = self._spawn([*command, str(attempt_dir)], output, {**kept, **environment})
        self.pid = self._popen.pid
        self._is_swept = False
        record = {"pid": self.pid, "started": start_time(self.pid), "place": place()}
        write_atomic(attempt_dir / RECORD, json.dumps(record).encode())

    @staticmethod
    def _spawn(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def poll(self) -> int | None:
        """The exit status (negative: the signal that ended it), None while it runs. Reaps it."""
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
    """End what still runs of a run's earlier attempts on this machine; returns how many process groups.

    Raises TimeoutError when one can't be ended.
    """
    num_killed = 0
    for path in attempts_dir.glob(f"*/{RECORD}"):
        record = json.loads(path.read_bytes())
        pid = int(record["pid"])
        if record["place"] != place() or not _is_same(pid, record):
            continue
        log.warning("ending the runner that attempt %s left behind (process group %d)", path.parent.name, pid)
        kill_group(pid)
        _wait_until_gone(pid)
        num_killed += 1
    return num_killed


def _is_same(pid: int, record: Mapping[str, Any]) -> bool:
    """Whether the recorded group lives: its leader, or, when that is gone, a member that still carries its number."""
    started = start_time(pid)
    return bool(_members(pid)) and started in (record["started"], None)


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + KILL_WAIT_SECONDS
    while _members(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process group {pid} does not end")
        time.sleep(0.02)


def _members(pid: int) -> list[int]:
    """Living processes of the group and session that the process `pid` founded."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            state, group, session = fields[0], int(fields[2]), int(fields[3])
            if group == session == pid and state not in ("Z", "X"):
                found.append(int(entry.name))
    return found


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since the boot; None when there is no such process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the state on: the name before may hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def is_frozen(pid: int) -> bool:
    """Whether the process is stopped (SIGSTOP) or held by a debugger."""
    fields = _stat(pid)
    return fields is not None and fields[0] in ("T", "t")


def place() -> str:
    """This boot of this machine, and this process namespace (a container has its own): where process numbers mean the same."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip()} {namespace.readlink()}" if boot.exists() else os.uname().nodename
