"""What this machine has to run on, found without torch."""

import os
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

QUERY = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]


@dataclass(frozen=True)
class Device:
    """A GPU; `index` is what CUDA_VISIBLE_DEVICES calls it."""

    index: int
    name: str
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_gpus() -> list[Device]:
    """The NVIDIA GPUs this process may use; none when there is no driver. CUDA_VISIBLE_DEVICES is respected."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(answer: str, allowed: str | None) -> list[Device]:
    """The devices of nvidia-smi's answer that `allowed` names by index or UUID; None allows all."""
    wanted = None if allowed is None else {part.strip() for part in allowed.split(",")}
    gpus = []
    for line in answer.splitlines():
        index, uuid, rest = (part.strip() for part in line.split(",", 2))
        name, _, mebibytes = (part.strip() for part in rest.rpartition(","))
        if wanted is None or wanted & {index, uuid}:
            gpus.append(Device(int(index), name, int(mebibytes) * 2**20 if mebibytes.isdigit() else 0))
    return gpus


def count_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))
