"""The places of a worker: which processes run at once, on which GPU, and with how many threads."""

from collections.abc import Collection, Sequence
from typing import Literal

from app.settings import Settings
from app.store import workers
from app.system.installation import limit_threads
from app.system.limits import count_cores
from worker.supervision.devices import Device


class Slots:
    """One process runs in a slot. Slots share GPUs in turn; without GPUs, all share the cores."""

    def __init__(self, settings: Settings, gpus: Sequence[Device]) -> None:
        self.gpus = list(gpus)
        self.num_slots = settings.worker_slots or max(1, len(self.gpus))
        self.num_places = workers.count_places(self.num_slots, len(self.gpus))  # of the processes of one run
        self.num_threads = settings.runner_threads or max(1, count_cores() // self.num_slots)
        self.device: Literal["cpu", "cuda"] = "cuda" if self.gpus else "cpu"

    def find_free(self, taken: Collection[int]) -> list[int]:
        return [slot for slot in range(self.num_slots) if slot not in taken]

    def find_free_apart(self, taken: Collection[int]) -> list[int]:
        """Return the free slots on GPUs of their own, or all free slots where there is no GPU."""
        free = self.find_free(taken)
        first = {self._gpu_of(slot): slot for slot in reversed(free)}
        return [slot for slot in free if slot == first[self._gpu_of(slot)]]

    def name_gpus(self, slots: Sequence[int]) -> str:
        """Return the GPUs of these slots as CUDA_VISIBLE_DEVICES names them; empty where there is none."""
        return ",".join(str(self.gpus[self._gpu_of(slot)].index) for slot in slots) if self.gpus else ""

    def describe_environment(self, slots: Sequence[int]) -> dict[str, str]:
        """Return what a runner in these slots has in its environment besides ours."""
        return {
            "CUDA_VISIBLE_DEVICES": self.name_gpus(slots), "PYTHONUNBUFFERED": "1", **limit_threads(self.num_threads)
        }  # fmt: skip

    def _gpu_of(self, slot: int) -> int:
        """Return which GPU the slot's process gets; without GPUs, the slot itself."""
        return slot % len(self.gpus) if self.gpus else slot
