"""The demonstration in the browser: a child process that makes its data and models and takes them in as the user who asked.

The child (`python -m app.demonstration.begin`) needs torch in this installation, though none comes into the web process. There is
one at a time; where it stands is read from what it writes.
"""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from app.settings import Settings
from app.store.files.files import DEMONSTRATION
from app.system.installation import find_untrainable, inherit_environment, module_command

BEGIN = tuple(module_command("app.demonstration.begin"))
FOLDER, LOG = "seed-0", "browser.log"
STEP = re.compile(r"^(\w+): step (\d+)/(\d+)", re.MULTILINE)
READY = re.compile(r"^ready (\S+)$", re.MULTILINE)
TITLES = {"policy": "Pretraining the policy", "reward": "Training the reward model"}
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  (what a server listens on is no address to speak to)
END_SECONDS = 5.0


@dataclass(frozen=True)
class MakingState:
    """How far it is. `shares`: of each model's training, by its title; `query`: what fills the launch form."""

    state: Literal["none", "making", "ready", "failed"]
    shares: dict[str, float]
    query: str = ""
    text: str = ""


class Demonstration:
    """Start the child, look at it, and end it with the web."""

    def __init__(self, settings: Settings, command: Sequence[str] = BEGIN) -> None:
        self._settings, self._command = settings, tuple(command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = settings.root / DEMONSTRATION / LOG

    @property
    def obstacle(self) -> str:
        """Why it can't be begun here, as a sentence; empty when it can."""
        if self._settings.store_url:
            return (
                "Hosts of this studio share an object store; run varstudio demo on a machine of its own to see the demonstration."
            )
        missing = find_untrainable()
        return f"The web's installation can't make the demonstration's models: {missing}" if missing else ""

    def begin(self, token: str) -> None:
        """Start it, speaking to the studio by this token, unless it is going on."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._log.parent.mkdir(mode=0o700, exist_ok=True)
            settings = self._settings
            url = f"http://{ANY_HOST.get(settings.host, settings.host)}:{settings.port}"
            environment = inherit_environment(STUDIO_DATA_DIR=str(settings.root), STUDIO_URL=url, STUDIO_TOKEN=token)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*self._command, str(self._log.parent / FOLDER)],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def look(self) -> MakingState:
        """Return how far it is, by what it has written."""
        with self._lock:
            process = self._process
        if process is None:
            return MakingState("none", {})
        status = process.poll()
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        shares = {TITLES.get(part, part): int(done) / max(1, int(total)) for part, done, total in STEP.findall(text)}
        if status is None:
            return MakingState("making", shares)
        if status == 0 and (ready := READY.search(text)):
            return MakingState("ready", shares, query=ready[1])
        last = next((line for line in reversed(text.splitlines()) if line.strip()), f"It ended with status {status}.")
        return MakingState("failed", shares, text=f"{last[:400]} The whole log is {self._log}.")

    def close(self) -> None:
        """End the child with all that it has started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(END_SECONDS)
