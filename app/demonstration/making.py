"""The demonstration's data and models, made by the worker's code in processes of their own, with visible progress."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from app.commands.client import CommandFailed
from app.commands.up import end_with_parent
from app.system.installation import inherit_environment, module_command

STEP = re.compile(r"(?P<part>\w+): step (?P<done>\d+)/(?P<total>\d+)\s+(?P<rest>.*)")
TITLES = {"policy": "Pretraining the policy", "reward": "Training the reward model"}
END_SECONDS = 5.0


class Making:
    """`python -m worker.demonstration`, running; leaving the context ends it. Its complaints go to `log`."""

    def __init__(self, folder: Path, log: Path, *, seed: int, scale: float) -> None:
        self.log = log
        command = module_command("worker.demonstration", str(folder), "--seed", str(seed), "--scale", str(scale))
        with log.open("wb") as complaints:
            self.process = subprocess.Popen(
                command,
                env=inherit_environment(),
                stdout=subprocess.PIPE,
                stderr=complaints,
                encoding="utf-8",
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.signal_group(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.signal_group(signal.SIGKILL)
                self.process.wait()

    def signal_group(self, number: signal.Signals) -> None:
        """To the process and to those that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def follow(self, console: Console) -> None:
        """Show its progress to its end: bars in a terminal, lines elsewhere.

        Raises: CommandFailed when it didn't succeed.
        """
        if self.process.stdout is None:
            raise ValueError("the process was started without a pipe")
        bars = Bars(console)
        with bars.progress:
            for line in self.process.stdout:
                bars.take(line.rstrip())
        status = self.process.wait()
        if status:
            raise CommandFailed(f"The demonstration's models could not be made (status {status}). {self.log} says why.")


class Bars:
    """A bar for each model in training; other lines are printed above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}"))
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def take(self, line: str) -> None:
        found = STEP.fullmatch(line)
        if found is None or not self.console.is_terminal:
            self.console.print(line, markup=False)
            return
        part, done, total, rest = found.group("part", "done", "total", "rest")
        if part not in self.tasks:
            self.tasks[part] = self.progress.add_task(TITLES.get(part, part), total=int(total), rest="")
        self.progress.update(self.tasks[part], completed=int(done), rest=rest)
