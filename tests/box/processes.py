"""Child processes of the box: each with its log, stopped as Docker stops a container."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Process:
    """A started process and the group it leads."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path, user: str | None = None,
        popen: "type[subprocess.Popen[bytes]]" = subprocess.Popen,
    ) -> None:  # fmt: skip
        self.name = name
        self.log = log
        self.command, self.environment, self.cwd, self.user = list(command), dict(environment), cwd, user
        self._popen = popen
        self.popen = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, or start it again after its end; the log goes on."""
        with self.log.open("ab") as output:
            self.popen = self._popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment, cwd=self.cwd,
                start_new_session=True, user=self.user, group=self.user, extra_groups=[] if self.user else None,
            )  # fmt: skip
        return self.popen

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        """True while it runs; fails the test with its log when it ended by itself."""
        assert self.popen.poll() is None, f"{self.name} ended with status {self.popen.returncode}:\n{self.text[-4000:]}"
        return True

    def stop(self, grace_seconds: float, sign: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop, kill its group after the grace; the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        return self.popen.wait()


def unprivileged(user: str) -> str | None:
    """`user` when we are root and it exists: database servers refuse to run as root. None: stay who we are."""
    if os.geteuid() != 0:
        return None
    import pwd

    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user).pw_name
    return "nobody"


def own_folder(folder: Path, user: str | None) -> Path:
    """The folder, made, and given to `user`."""
    folder.mkdir(parents=True, exist_ok=True)
    if user:
        shutil.chown(folder, user, user if user != "nobody" else "nogroup")
    return folder
