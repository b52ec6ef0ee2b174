"""Processes of the studio without the seconds that their imports take: a process that has imported everything forks them.

    process = warm.Popen([sys.executable, "-m", "worker.main"], env=…, stdout=…)        as subprocess.Popen

Such a process has its own session, environment, folder, log and signals, its command line and its mark where the kernel shows
them, and is the child of whoever started it, who adopts it (its first parent leaves at once). What it runs is the program
itself, as `python -m` runs it; the processes of the studio that it starts are forked too. Programs that are not named here,
and everything that subprocess.Popen starts, begin from nothing, as users' do: each of these programs has tests of that kind.
"""

import atexit
import ctypes
import fcntl
import gc
import inspect
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

CHECKOUT = Path(__file__).resolve().parents[1]
HOME = str(CHECKOUT)
USUAL_PATHS = (None, HOME, os.environ.get("PYTHONPATH"))  # with these a process finds the same modules as this one
MODULES = {
    "app.cli", "app.ingest", "app.ingest.models.chat_template", "app.ingest.models.folder", "app.store.files.reader",
    "tests.faults.runner.mishaps", "uvicorn", "worker.demonstration", "worker.demonstration.judge", "worker.main",
    "worker.preview", "worker.rank", "worker.runner",
}  # fmt: skip
SCRIPTS = {"reaper.py", "real_worker.py", "short_sighted_worker.py", "work.py"}
# What these programs import, but for modules that read the environment when they are imported.
IMPORTED = (
    "torch", "peft", "scipy.stats", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
    "worker.models.sharding", "worker.preview.grid", "worker.rank", "worker.runner", "worker.stages.pipeline",
    "worker.supervisor", "app.cli", "app.commands.up", "app.ingest.ingest", "app.main", "celery.apps.worker", "celery.bin.celery",
    "kombu.transport.redis", "kombu.transport.sqlalchemy", "psycopg", "uvicorn.lifespan.on", "uvicorn.main",
    "uvicorn.protocols.http.auto",
)  # fmt: skip
ROOM = 4000  # bytes of the first argument: room for other command lines
PR_SET_CHILD_SUBREAPER = 36
EXECUTE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Request:
    """What a process shall be. Of the file descriptors that come with it, the first three are its own 0, 1 and 2."""

    parent: int
    arguments: tuple[str, ...]
    folder: str | None
    environment: dict[str, str]
    leads_session: bool
    passed: tuple[int, ...]
    before: str  # what it calls first, as `module:function`


class Nursery:
    """The process that forks, as who asks it and adopts what it forks."""

    def __init__(self, channel: socket.socket, process: "subprocess.Popen[Any] | None" = None) -> None:
        self._channel, self._process = channel, process
        self._lock = threading.Lock()

    def fork(self, request: Request, descriptors: Sequence[int]) -> int:
        """Return the number of the new process, a child of this one."""
        with self._lock:
            adopt_orphans(True)  # and not for longer: those of others are init's
            try:
                socket.send_fds(self._channel, [json.dumps(asdict(request)).encode()], descriptors)
                return int(self._channel.recv(20))
            finally:
                adopt_orphans(False)

    def close(self) -> None:
        """Let it go, and what it has forked live."""
        self._channel.close()
        if self._process is not None:
            self._process.wait()


_nursery: Nursery | None = None


def find_nursery() -> Nursery:
    """The nursery of this process; the first call of a process of tests starts it, which takes seconds."""
    global _nursery
    if _nursery is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given = {"PYTHONPATH": HOME, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-c", "from tests.warm import main; main()", str(theirs.fileno()), "-" * ROOM]
        process = subprocess.Popen(command, cwd=CHECKOUT, env={**os.environ, **given}, pass_fds=[theirs.fileno()])
        theirs.close()
        assert ours.recv(20) == b"ready", "the nursery has ended"
        _nursery = Nursery(ours, process)
    return _nursery


def close() -> None:
    """End the nursery of this process, if there is one."""
    if _nursery is not None:
        _nursery.close()


class Popen(subprocess.Popen[Any]):
    """subprocess.Popen, but for who forks the programs of the studio."""

    def _execute_child(self, *given: Any) -> None:
        told = EXECUTE.bind(self, *given).arguments
        arguments = find_program(told["args"])
        environment = os.environ if told["env"] is None else told["env"]
        if arguments is None or environment.get("LD_PRELOAD") or environment.get("PYTHONPATH") not in USUAL_PATHS:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        ends = (told["p2cread"], told["c2pwrite"], told["errwrite"])
        request = Request(
            os.getpid(), arguments, told["cwd"] and os.fspath(told["cwd"]), dict(environment),
            told["start_new_session"], tuple(told["pass_fds"]),
            f"{told['preexec_fn'].__module__}:{told['preexec_fn'].__qualname__}" if told["preexec_fn"] else "",
        )  # fmt: skip
        own = [k if end == -1 else end for k, end in enumerate(ends)]
        self.pid = find_nursery().fork(request, [*own, *request.passed])
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(told[name] for name in names))  # type: ignore[attr-defined]


@contextmanager
def forking() -> Iterator[None]:
    """Whatever starts a program of the studio in this process meanwhile has it forked."""
    kept, subprocess.Popen = subprocess.Popen, Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = kept  # type: ignore[misc]


def find_program(command: Any) -> tuple[str, ...] | None:
    """The arguments of Python when the command is one of ours; without -P, which changes nothing here."""
    if isinstance(command, str) or not command or command[0] != sys.executable:
        return None
    arguments = tuple(os.fspath(part) for part in command[1:] if part != "-P")
    if arguments[0] == "-m":
        return arguments if arguments[1] in MODULES else None
    return arguments if Path(arguments[0]).name in SCRIPTS else None


def adopt_orphans(wanted: bool) -> None:
    """Whether orphans among this process's descendants become its children (Linux)."""
    assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0


def serve(channel: socket.socket) -> NoReturn:
    """Fork a process for every request, until the other end of the channel is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 2**20, 32)
        if not message:
            os._exit(0)
        request = Request(**json.loads(message))
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            pid = os.fork()
            if not pid:
                begin(request, descriptors)
            os.write(writing, str(pid).encode())
            os._exit(0)
        for descriptor in (writing, *descriptors):
            os.close(descriptor)
        os.waitpid(between, 0)
        channel.send(os.read(reading, 20))
        os.close(reading)


def begin(request: Request, descriptors: Sequence[int]) -> NoReturn:
    """Become what is asked for, then run the program to its end."""
    if request.leads_session:
        os.setsid()
    while os.getppid() != request.parent:
        time.sleep(0.0005)
    take(descriptors, [0, 1, 2, *request.passed])
    os.environ.clear()
    os.environ.update(request.environment)
    if request.folder is not None:
        os.chdir(request.folder)
    found_a_nursery()
    show(request)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(k, mode) for k, mode in enumerate(("r", "w", "w")))
    sys.stderr.reconfigure(line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    if request.before:
        pkgutil.resolve_name(request.before)()
    end(run(request.arguments))


def take(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Have the files under these numbers, and no others open."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for descriptor in descriptors]
    os.closerange(3, 500)
    for source, number in zip(high, numbers, strict=True):
        os.dup2(source, number, inheritable=True)
        os.close(source)


def found_a_nursery() -> None:
    """Fork what will fork the processes that this one starts; before there are threads."""
    global _nursery
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        ours.close()
        serve(theirs)
    theirs.close()
    _nursery = Nursery(ours)
    subprocess.Popen = Popen  # type: ignore[misc]


def show(request: Request) -> None:
    """Put command line and environment where the kernel shows them."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    first, last, environment, after = (int(field) for field in fields[45:49])
    command = (sys.executable, *request.arguments)
    variables = (f"{name}={value}" for name, value in reversed(request.environment.items()))  # the mark is among the last
    for start, stop, parts in ((first, last, command), (environment, after, variables)):
        text = b"".join(os.fsencode(part) + b"\0" for part in parts)[: stop - start - 1]
        ctypes.memmove(start, text.ljust(stop - start, b"\0"), stop - start)


def run(arguments: tuple[str, ...]) -> int:
    """Run the program as Python would; its exit status."""
    named = arguments[0] == "-m"
    sys.argv = list(arguments[1:] if named else arguments)
    try:
        if named:
            if not hasattr(sys.modules.get(arguments[1]), "__path__"):
                sys.modules.pop(arguments[1], None)  # it is run, not imported
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        sys.stderr.write(f"{left.code}\n")
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def end(status: int) -> NoReturn:
    """Leave as Python leaves: threads, what was registered, what is not yet written."""
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def main() -> None:
    """Import, then serve."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        __import__(name)
    sys.modules["torch"].set_num_threads(1)
    app = sys.modules["app.main"]
    app.work_out(app.inner_routes())
    assert "worker.main" not in sys.modules
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # collections of what is forked then leave alone what it shares with this process
    channel.send(b"ready")
    serve(channel)
