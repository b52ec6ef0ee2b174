"""The process in which chat templates run, as those see it who have something written: started when needed, kept warm.

Nothing within Python bounds a template (`{{ "a" * 10**10 }}` is one call), so the kernel does. Conversations go together, many
an exchange; when the process is lost over them they are asked again one by one, and the one it is lost over alone is named.
"""

import atexit
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any

from app.system.child import Child, ReplyLost
from app.system.installation import module_command
from worker.models.rendering.asked import CPU_SECONDS, Asked, Outcome, Rendered
from worker.models.rendering.writing import write

TOGETHER, TOGETHER_CHARS = 256, 2**20  # of one exchange
MEMORY_STATUS = 1  # of a Python that had no memory left for an answer either
WAIT_SECONDS = 600.0  # for an exchange, of which processor time is limited by the kernel: when the machine stands still


class Renderer:
    """Has conversations written by templates; one process for all of them."""

    def __init__(self, cpu_seconds: int = CPU_SECONDS) -> None:
        self._command = module_command("worker.models.rendering", str(cpu_seconds))
        self._child: Child | None = None
        self._owner = 0
        self._is_apart = False
        self._lock = Lock()

    def stay_here(self) -> None:
        """Let templates run in this process from now on: it is limited itself, and ends with what it was started for."""
        self._is_apart = True

    def start(self) -> None:
        """Have the process ready soon: it takes half a second to import what it needs."""
        if not self._is_apart:
            with self._lock:
                self._warm_child()

    def write(self, template: str, variables: Mapping[str, Any], asked: Sequence[Asked]) -> Iterator[Rendered]:
        """Yield what becomes of each conversation; what comes after one that went past a limit need not be asked for."""
        if self._is_apart:
            yield from (_write_here(template, variables, one) for one in asked)
            return
        for together in _part(asked):
            try:
                yield from self._exchange(template, variables, together)
            except ReplyLost:
                yield from (self._write_alone(template, variables, one) for one in together)

    def _write_alone(self, template: str, variables: Mapping[str, Any], asked: Asked) -> Rendered:
        try:
            return self._exchange(template, variables, [asked])[0]
        except ReplyLost as lost:
            return Rendered(_find_limit(lost))

    def _exchange(self, template: str, variables: Mapping[str, Any], asked: Sequence[Asked]) -> list[Rendered]:
        """Raises ReplyLost when the process is lost over them; the next exchange has a new one."""
        with self._lock:
            child = self._warm_child()
            try:
                reply = child.ask({"template": template, "variables": variables, "asked": asked}, WAIT_SECONDS)
            except ReplyLost:
                self.stop()
                raise
        return [Rendered(*told) for told in reply["told"]]

    def _warm_child(self) -> Child:
        if self._child is not None and self._owner != os.getpid():  # of the process that this one is a copy of
            self._child = None
        if self._child is not None and not self._child.alive:  # it has left, after some idle minutes
            self.stop()
        if self._child is None:
            self._child, self._owner = Child(self._command), os.getpid()
        return self._child

    def stop(self) -> None:
        """End the process; the next exchange starts another."""
        if self._child is not None and self._owner == os.getpid():
            self._child.stop()
        self._child = None


def _write_here(template: str, variables: Mapping[str, Any], asked: Asked) -> Rendered:
    """Raises MemoryError: how much there is, is known to those who limited this process."""
    told = write(template, variables, asked)
    if told.outcome == "memory":
        raise MemoryError
    return told


def _part(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Yield the conversations in parts of which none is too large to be held several times over."""
    part: list[Asked] = []
    size = 0
    for one in asked:
        if part and (len(part) >= TOGETHER or size + one.num_chars > TOGETHER_CHARS):
            yield part
            part, size = [], 0
        part.append(one)
        size += one.num_chars
    if part:
        yield part


def _find_limit(lost: ReplyLost) -> Outcome:
    if lost.why == "late" or lost.status == -signal.SIGXCPU:
        return "time"
    if lost.why == "large":
        return "length"
    return "memory" if lost.status == MEMORY_STATUS else "crash"


RENDERER = Renderer()
atexit.register(RENDERER.stop)
