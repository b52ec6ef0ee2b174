"""`varstudio up`: the web and a worker on this machine, as two child processes. One that dies is started again."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Annotated
from urllib.parse import urlsplit

import httpx
import typer
from sqlalchemy.orm import Session

from app.commands.client import CommandFailed, address_path, token_path
from app.commands.terminal import err, out
from app.domain.errors import Unauthenticated
from app.services import accounts
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import make_root
from app.store.files.shared_files import open_files
from app.system.addresses import is_loopback
from app.system.files import private_files
from app.system.installation import (
    ROOT,
    find_untrainable,
    inherit_environment,
    list_missing_files,
    module_command,
    restore_command,
    start_command,
)

READY_SECONDS = 60.0
POLL_SECONDS = 0.2
WEB_GRACE_SECONDS = 15.0
WORKER_GRACE_SECONDS = 30.0  # beyond the time that runners get to save
PR_SET_PDEATHSIG = 1
RESTART_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)  # before the first restart, the second, …
RESTART_WINDOW_SECONDS = 300.0  # more ends than pauses within it, and the studio stops


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    no_worker: Annotated[bool, typer.Option("--no-worker", help="The web alone.")] = False,
) -> None:
    """Start the studio here; Ctrl-C stops it."""
    given = {"host": host, "port": port, "data_dir": data_dir}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    check_address(settings)
    open_files(settings)  # a store that can't be meant is said here, not by two processes that end
    obstacle = "" if no_worker else find_untrainable()
    for sentence in (*describe_missing_roots(settings), *describe_missing_parts(obstacle)):
        err.print(sentence, markup=False, soft_wrap=True)
    with private_files():
        secret = prepare(settings)
        sys.exit(Children(settings, no_worker=no_worker or bool(obstacle)).run(secret))


def check_address(settings: Settings) -> None:
    """Beyond this machine only on purpose: someone must have said by which name the studio is reached.

    Raises: CommandFailed.
    """
    if fault := settings.find_public_url_fault():
        raise CommandFailed(fault)
    if not is_loopback(settings.host):
        default_hosts = Settings.model_fields["allowed_hosts"].default
        if not settings.public_url and settings.allowed_hosts == default_hosts:
            raise CommandFailed(
                f"{settings.host} can be reached from other machines. Say by which name users come: set STUDIO_PUBLIC_URL "
                "or STUDIO_ALLOWED_HOSTS; or listen on 127.0.0.1."
            )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise CommandFailed(
                f"Port {settings.port} of {settings.host} can't be used ({error.strerror}). Stop what listens there, or choose "
                f"another: {start_command('--port 8401')}."
            ) from None


def describe_missing_roots(settings: Settings) -> list[str]:
    """Return a sentence for each folder of STUDIO_MODEL_ROOTS that isn't there: models will be refused, and nothing else says
    why.
    """
    return [
        f"The folder {root} of STUDIO_MODEL_ROOTS does not exist, so no model can be taken from it. "
        "Several folders are written with a comma between two."
        for root in settings.model_roots
        if not root.is_dir()
    ]


def describe_missing_parts(obstacle: str) -> list[str]:
    """Return a sentence for what this installation lacks: a worker, by the `obstacle` to its start, and files of the pages."""
    worker = [f"The studio starts without a worker: {obstacle}"] if obstacle else []
    missing = list_missing_files()
    files = [f"The pages won't work as meant, since {', '.join(missing)} can't be found: {restore_command()}"] if missing else []
    return worker + files


def prepare(settings: Settings) -> str | None:
    """Tables, the first account, the command line's token and address; returns a login secret while nobody is signed in."""
    make_root(settings.root)
    database = Database(settings)
    try:
        database.migrate()
        with database.writing() as session:
            keep_token(session, token_path(settings))
            address_path(settings).write_text(settings.url, encoding="utf-8")
            return accounts.greet(session, renew=True)
    finally:
        database.close()


def keep_token(session: Session, path: Path) -> None:
    """A token in a file that only this user can read, for the other commands; a good one stays."""
    try:
        accounts.authenticate(session, path.read_text(encoding="utf-8").strip(), "api")
    except (FileNotFoundError, UnicodeDecodeError, Unauthenticated):
        secret = accounts.create_token(session, accounts.ensure_admin(session), "command line")
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secret)


class Children:
    """The web and the worker, started together; `run` starts one again that ended by itself, and stops when it keeps ending."""

    def __init__(self, settings: Settings, *, no_worker: bool) -> None:
        self.settings = settings
        self.commands = {"web": web_command(settings)} | ({} if no_worker else {"worker": module_command("worker.main")})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ends: dict[str, list[float]] = {name: [] for name in self.commands}
        self.restart_at: dict[str, float] = {}
        self.is_up = False
        self.stopping = False

    def run(self, secret: str | None) -> int:
        """Until a signal or a child's end; returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)
        self.start()
        try:
            if self.wait_for_web():
                self.is_up = True
                greet(self.settings, secret)
            ended = self.wait_for_an_end()
        finally:
            self.end_all()
        if ended is None:
            err.print("Stopped.")
            return 0
        status = self.processes[ended].returncode
        again = " again and again" if self.is_up else ""
        err.print(
            f"The {ended} process ended by itself{again} (status {status}), so the studio has stopped. Its last lines say why."
        )
        return 1

    def start(self, output: IO[bytes] | None = None) -> None:
        """Start them all; what they print goes to `output`, or where our own goes."""
        for name in self.commands:
            self.start_one(name, output)

    def start_one(self, name: str, output: IO[bytes] | None = None) -> None:
        self.processes[name] = subprocess.Popen(
            self.commands[name], env={**child_environment(self.settings), **self.quieted(name)}, stdout=output, stderr=output,
            start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip

    def quieted(self, name: str) -> Mapping[str, str]:
        """In a terminal the web only says what is wrong, unless somebody chose a level."""
        is_chosen = "log_level" in self.settings.model_fields_set
        return {} if is_chosen or name != "web" else {"STUDIO_LOG_LEVEL": "warning"}

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:  # a second Ctrl-C: at once
            for process in self.processes.values():
                process.kill()
        else:
            self.stopping = True
            err.print("Stopping: runs save their state first. Ctrl-C again stops at once.")

    def wait_for_web(self) -> bool:
        """True once the web answers; False when it has ended or is being stopped."""
        address = "127.0.0.1" if self.settings.host == "0.0.0.0" else self.settings.host  # noqa: S104
        url = f"http://{f'[{address}]' if ':' in address else address}:{self.settings.port}/healthz"
        name = urlsplit(self.settings.url).netloc
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(headers={"host": name}, timeout=2) as client:  # one: each reads the certificates of the world
            while time.monotonic() < deadline and not self.stopping and self.processes["web"].poll() is None:
                try:
                    if not client.get(url).is_server_error:  # whichever names it answers to
                        return True
                except httpx.HTTPError:
                    pass
                time.sleep(POLL_SECONDS)
        return False

    def wait_for_an_end(self) -> str | None:
        """Return the name of a child that ended by itself and can't be helped by a restart; None after a signal."""
        while not self.stopping:
            for name, process in self.processes.items():
                if name not in self.restart_at and process.poll() is not None and not self.plan_restart(name):
                    return name
            for name in [name for name, at in self.restart_at.items() if time.monotonic() >= at]:
                del self.restart_at[name]
                self.start_one(name)
            time.sleep(POLL_SECONDS)
        return None

    def plan_restart(self, name: str) -> bool:
        """Let a child that ended be started again, later each time; False when it never worked or keeps ending."""
        now = time.monotonic()
        recent = [at for at in self.ends[name] if now - at < RESTART_WINDOW_SECONDS]
        if not self.is_up or len(recent) >= len(RESTART_PAUSES):
            return False
        pause = RESTART_PAUSES[len(recent)]
        self.ends[name] = [*recent, now]
        self.restart_at[name] = now + pause
        when = f"in {pause:g} s" if pause else "now"
        status = self.processes[name].returncode
        err.print(f"The {name} process ended by itself (status {status}). It is started again {when}.", markup=False)
        return True

    def end_all(self) -> None:
        """The worker first: its runs save their state while the web still shows it."""
        graces = {"worker": self.settings.grace_seconds + WORKER_GRACE_SECONDS, "web": WEB_GRACE_SECONDS}
        for name in reversed(self.processes):
            process = self.processes[name]
            process.terminate()
            try:
                process.wait(graces[name])
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def web_command(settings: Settings) -> list[str]:
    return [
        *module_command("uvicorn"), "--app-dir", str(ROOT), "--factory", "app.main:create_app",
        "--http", "app.web.connections:Connection", "--host", settings.host, "--port", str(settings.port),
        "--timeout-graceful-shutdown", "5", "--log-level", "warning", "--no-access-log",
    ]  # fmt: skip


def child_environment(settings: Settings) -> Mapping[str, str]:
    """Ours, with the choices of the command line. The embedded database is named by its folder."""
    chosen = {"STUDIO_HOST": settings.host, "STUDIO_PORT": str(settings.port), "STUDIO_DATA_DIR": str(settings.root)}
    chosen["FORWARDED_ALLOW_IPS"] = ",".join(settings.forwarded_allow_ips)  # read by uvicorn itself, which knows no .env
    return inherit_environment(**chosen)


def end_with_parent() -> None:
    """In the child: the kernel sends SIGTERM when `varstudio up` is gone, however it went (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def greet(settings: Settings, secret: str | None) -> None:
    """Where the studio is, and how to come in."""
    out.print(f"VAR Studio is at {settings.url}", markup=False)
    if secret is not None:
        link = f"{settings.url}/login/{secret}"
        out.print(f"Sign in (once, within {accounts.LOGIN_LINK_HOURS} hours): {link}", markup=False)
    out.file.flush()
