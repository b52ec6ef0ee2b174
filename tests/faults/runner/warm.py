"""Real runners without the seconds that importing torch takes: a process that has imported everything forks each of them.

    python -m tests.faults.runner.warm        one request a line on its input, the runner's process id on its output

A forked runner is a process like any other: a session of its own, its own log, its own signals, and the supervisor's child (its
first parent leaves at once, and the process of the tests adopts it). Whatever it does, it does in `worker.runner.main`.
"""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, cast

from tests.conftest import CHECKOUT
from tests.faults.runner import mishaps
from worker.supervision.process import MARK, RunnerProcess

PR_SET_CHILD_SUBREAPER = 36


class Nursery:
    """The process that forks runners, and this one as who adopts them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.runner.warm"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", MARK: "-" * 32},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def fork(self, command: Sequence[str], output: IO[bytes], mark: str) -> "Adopted":
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"command": list(command), "log": os.fspath(output.name), "parent": os.getpid(), "mark": mark}
        adopt_orphans(True)  # and not for longer: those of other tests are init's
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return Adopted(int(self._process.stdout.readline()))
        finally:
            adopt_orphans(False)

    def close(self) -> None:
        self._process.communicate()


class Adopted:
    """What the supervisor needs of a `subprocess.Popen`, for a process that somebody else started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        return cast(int, self.returncode)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def make_warm(nursery: Nursery) -> type[RunnerProcess]:
    """The supervisor's RunnerProcess, but for who forks it. Its command is the list of mishaps."""

    class WarmProcess(RunnerProcess):
        @staticmethod
        def _spawn(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> Any:
            return nursery.fork(command, output, environment[MARK])

    return WarmProcess


def adopt_orphans(wanted: bool) -> None:
    """Whether orphans among this process's descendants become its children (Linux)."""
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0


def serve() -> None:
    """Fork a runner for every line of the input, until it ends."""
    import torch
    import transformers.models.llama.modeling_llama

    import worker.stages.pipeline  # noqa: F401  (all that a runner imports)

    torch.set_num_threads(1)
    assert transformers.models.llama.modeling_llama
    gc.collect()
    gc.freeze()  # a runner's own collections then leave alone what it shares with this process
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            begin_runner(request, writing)
        os.close(writing)
        os.waitpid(between, 0)
        sys.stdout.write(os.read(reading, 20).decode() + "\n")
        sys.stdout.flush()
        os.close(reading)


def begin_runner(request: dict[str, Any], told: int) -> None:
    """In the first child: fork the runner, tell its number, and leave it to be adopted. Does not return."""
    pid = os.fork()
    if pid:
        os.write(told, str(pid).encode())
        os._exit(0)
    os.setsid()
    while os.getppid() != request["parent"]:
        time.sleep(0.001)
    os.close(told)
    wear(request["mark"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    signal.set_wakeup_fd(-1)
    status = 1
    try:
        status = mishaps.run(request["command"])
    finally:
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def wear(mark: str) -> None:
    """Put the mark in the place of the nursery's, where the kernel shows a process's environment."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    ctypes.memmove(getenv(MARK.encode()), mark.encode(), len(mark))


if __name__ == "__main__":
    serve()
