"""What a test lets happen to a runner at one of its fail-points, and the runner's program with that in store:

    python -m tests.faults.runner.mishaps [MISHAP] … ATTEMPT_DIR        MISHAP: point=action[@passing][/attempt]

`passing` counts from 1 (0: every time), `attempt` is 1 unless given (0: every attempt).
kill: SIGKILL itself. pause: SIGSTOP itself. exit: status 3. full: OSError(ENOSPC). oom: torch.OutOfMemoryError. nan: the loss
of this step. deaf: takes no signal that can be refused, and hangs. greedy: asks for more memory than it may have. devour:
takes 300 MB bit by bit, which whoever limits its memory will not have.
"""

import errno
import json
import math
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.running import failpoints

RUNNER_COMMAND = (sys.executable, "-m", "tests.faults.runner.mishaps")


@dataclass(frozen=True)
class Mishap:
    point: str
    action: str
    passing: int = 1
    attempt: int = 1

    def __str__(self) -> str:
        return f"{self.point}={self.action}@{self.passing}/{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> "Mishap":
        point, action = text.split("=")
        action, _, attempt = action.partition("/")
        action, _, passing = action.partition("@")
        assert point in failpoints.POINTS, f"{point} is no fail-point"
        assert action in ACTIONS, f"{action} is no action"
        return cls(point, action, int(passing or 1), int(attempt or 1))


def arm(mishaps: Sequence[str], attempt_dir: Path) -> None:
    """Let the mishaps of this attempt happen in this process."""
    number = int(json.loads((attempt_dir / "spec.json").read_text())["attempt"])
    due = [mishap for mishap in map(Mishap.parse, mishaps) if mishap.attempt in (0, number)]
    passings: Counter[str] = Counter()
    if any(mishap.action == "nan" for mishap in due):
        poison_losses()

    def listener(point: str) -> None:
        passings[point] += 1
        for mishap in due:
            if mishap.point == point and mishap.passing in (0, passings[point]):
                ACTIONS[mishap.action]()

    failpoints.listen(listener)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def pause() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def leave() -> None:
    sys.stderr.write("Traceback: fell over at a fail-point\n")
    sys.stderr.flush()
    os._exit(3)


def fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def exhaust_gpu() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def turn_deaf() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(600)


def want_too_much() -> None:
    """Ask for a gibibyte with room for less: the kernel refuses, as it does under `ulimit -v`."""
    import torch

    in_use = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**28, resource.RLIM_INFINITY))
    torch.ones(2**30, dtype=torch.uint8)


def devour() -> None:
    taken = [b"x" * 2**20 for _ in range(300)]
    raise AssertionError(f"{len(taken)} MB were given")


_poisoned: list[Any] = []


def poison() -> None:
    _poisoned.append(True)


def poison_losses() -> None:
    """Make the loss NaN where the forward pass makes it, in the steps that `poison` marks."""
    from worker.stages.training import gradients

    real = gradients.weighted_nll

    def weighted_nll(*arguments: Any, **options: Any) -> Any:
        loss, logprob = real(*arguments, **options)
        return (loss * math.nan if _poisoned and _poisoned.pop() else loss), logprob

    gradients.weighted_nll = weighted_nll  # type: ignore[assignment]


ACTIONS = {
    "kill": kill, "pause": pause, "exit": leave, "full": fill, "oom": exhaust_gpu, "nan": poison, "deaf": turn_deaf,
    "greedy": want_too_much, "devour": devour,
}  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    from worker.runner import main

    *mishaps, folder = arguments
    arm(mishaps, Path(folder))
    return main([folder])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
