"""What this machine has to run on, found without torch."""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
USAGE = ["nvidia-smi", "--query-gpu=index,memory.used,utilization.gpu,temperature.gpu", "--format=csv,noheader,nounits"]
USAGE_SECONDS = 5.0
USAGE_TIMEOUT_SECONDS = 10.0
USAGE_LASTS_SECONDS = 30.0  # older values say nothing about now

USED = ("memory_used_bytes", "utilization_percent", "temperature_celsius")  # in the order of USAGE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A GPU; `index` is what CUDA_VISIBLE_DEVICES calls it."""

    index: int
    name: str
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_gpus() -> list[Device]:
    """Return the NVIDIA GPUs this process may use; none when there is no driver. CUDA_VISIBLE_DEVICES is respected."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, encoding="utf-8", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(answer: str, allowed: str | None) -> list[Device]:
    """Return the devices of nvidia-smi's answer that `allowed` names by index or UUID; None allows all."""
    wanted = None if allowed is None else {part.strip() for part in allowed.split(",")}
    gpus = []
    for line in answer.splitlines():
        index, uuid, rest = (part.strip() for part in line.split(",", 2))
        name, _, mebibytes = (part.strip() for part in rest.rpartition(","))
        if wanted is None or wanted & {index, uuid}:
            gpus.append(Device(int(index), name, int(mebibytes) * 2**20 if mebibytes.isdigit() else 0))
    return gpus


def parse_usage(answer: str) -> dict[int, dict[str, float]]:
    """For each GPU of nvidia-smi's answer: bytes in use, utilization in percent, °C; without what it doesn't know."""
    found = {}
    for line in answer.splitlines():
        index, *values = (part.strip() for part in line.split(","))
        if index.isdigit() and len(values) == len(USED):
            numbers = {name: float(value) for name, value in zip(USED, values, strict=True) if value.isdigit()}
            if "memory_used_bytes" in numbers:
                numbers["memory_used_bytes"] *= 2**20
            found[int(index)] = numbers
    return found


class UsageWatch:
    """What the GPUs are doing, asked in a thread of its own: nvidia-smi can hang with its driver, and a beat must not."""

    def __init__(self, gpus: Sequence[Device], *, command: Sequence[str] = USAGE, every: float = USAGE_SECONDS) -> None:
        self._gpus, self._command, self._every = list(gpus), list(command), every
        self._usage: dict[int, dict[str, float]] = {}
        self._asked_at = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin to ask; without a GPU there is nothing to ask."""
        if self._gpus:
            threading.Thread(target=self._ask_on, name="gpu usage", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def describe(self) -> list[dict[str, Any]]:
        """Return the devices with what was heard of them lately."""
        is_fresh = time.monotonic() - self._asked_at < USAGE_LASTS_SECONDS
        usage = self._usage if is_fresh else {}
        return [{**gpu.to_dict(), **usage.get(gpu.index, {})} for gpu in self._gpus]

    def _ask_on(self) -> None:
        is_known = False  # that it fails: said once
        while True:
            try:
                answer = subprocess.run(
                    self._command, capture_output=True, encoding="utf-8", timeout=USAGE_TIMEOUT_SECONDS, check=True
                ).stdout
                self._usage, self._asked_at, is_known = parse_usage(answer), time.monotonic(), False
            except (OSError, subprocess.SubprocessError) as error:
                log.log(logging.DEBUG if is_known else logging.WARNING, "nvidia-smi does not say what the GPUs do: %s", error)
                is_known = True
            if self._stopping.wait(self._every):
                return
