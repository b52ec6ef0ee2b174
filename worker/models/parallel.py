"""Several processes that train one policy: what each of them is, and how they speak.

Every process prepares the same data and computes the same weights for the whole batch from the same cached scores; it trains
its share of the batch's prompts, and gradients are summed, never averaged: the coefficients hold every mean (method.md, 5.6).
The first process, the lead, owns the spool, the artifacts and the checkpoints, and alone decides when to stop.
What is said goes as JSON and tensors: nothing is pickled.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from app.domain.errors import InvalidInput, RecipeInvalid
from app.domain.run import Outcome
from worker.running.stop import Stopped

Result = TypeVar("Result")

BUCKET_NUMBERS = 16 * 2**20  # of one sum over the processes: large enough for the wire, small beside a model
MEETING = timedelta(minutes=5)  # for all processes to have started
STEP_TIMEOUT = timedelta(minutes=30)  # a sum within a step; a process that dies is noticed at once
PATIENCE = timedelta(days=7)  # for the lead, while it scores, evaluates or writes a checkpoint


@dataclass(frozen=True)
class Ranks:
    """This process among all of its run; alone, every method does nothing."""

    rank: int = 0
    size: int = 1
    quiet: Any = None  # the group for what may take long; its waiting costs no GPU time

    @property
    def is_lead(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def share(self, costs: Sequence[int]) -> list[int]:
        """Return which of the items are this process's: the shares' summed costs are as equal as a greedy choice makes them."""
        loads: list[tuple[int, int]] = [(0, rank) for rank in range(self.size)]
        mine = []
        for item in sorted(range(len(costs)), key=lambda k: (-costs[k], k)):
            load, rank = min(loads)
            loads[rank] = (load + costs[item], rank)
            if rank == self.rank:
                mine.append(item)
        return sorted(mine)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; same shapes and order everywhere."""
        if self.is_alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of the processes' values."""
        total = value.clone() if not self.is_alone else value
        self.add_up([total])
        return total

    def tell(self, value: Any = None) -> Any:
        """Return the lead's value (anything JSON can say), on every process. Waits for the lead."""
        if self.is_alone:
            return value
        data = b"" if value is None or not self.is_lead else json.dumps(value).encode()
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self.quiet)
        if not int(size):
            return None
        text = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.is_lead else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self.quiet)
        return json.loads(bytes(text.tolist()))

    @contextmanager
    def lead_first(self) -> Iterator[None]:
        """Provide the lead runs the block while the others wait; then they run it, and find in the files what it has made."""
        if not self.is_lead:
            self.tell()
        yield
        if self.is_lead:
            self.tell()

    def lead_alone(self, action: Callable[[], Result]) -> Result | None:
        """Return the lead's result on the lead, None on the others, which wait. When the lead is stopped in it, all are
        stopped.
        """
        stopped, result = None, None
        if self.is_lead:
            try:
                result = action()
            except Stopped as error:
                stopped = error
        self.stop_together(stopped)
        return result

    def stop_together(self, found: Stopped | None) -> None:
        """Raise the lead's reason to stop on every process; without one, go on."""
        if self.is_alone:
            told = found
        else:
            said = self.tell(None if found is None else [found.outcome.value, found.reason, found.saves])
            told = None if said is None else Stopped(Outcome(said[0]), said[1], saves=said[2])
        if told is not None:
            raise told


ALONE = Ranks()


def require_device(device: str) -> None:
    """Raises InvalidInput where a GPU is asked for and torch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(
            "This machine has no GPU that torch can use. See whether its driver runs (nvidia-smi) and whether torch was built "
            "for CUDA, or train on the CPU."
        )


def join(rank: int, size: int, port: int, listening: int | None, device: str) -> Ranks:
    """Meet the other processes of this machine at 127.0.0.1:`port`; the lead serves it from its open socket `listening`.

    Sums of GPU tensors go by NCCL, everything else by gloo. Raises RecipeInvalid when there are fewer GPUs than processes,
    InvalidInput when there is none.
    """
    require_device(device)
    if device == "cuda":
        if torch.cuda.device_count() < size:
            raise RecipeInvalid.at(
                "training.num_processes",
                f"{size} processes need a GPU each, but there are {torch.cuda.device_count()}: use fewer.",
            )
        torch.cuda.set_device(rank)
    store = dist.TCPStore(  # type: ignore[attr-defined]  # torch re-exports it without saying so
        "127.0.0.1", port, size, rank == 0, timeout=MEETING, master_listen_fd=listening
    )
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=STEP_TIMEOUT)
    return Ranks(rank, size, dist.new_group(backend="gloo", timeout=PATIENCE))


def leave(ranks: Ranks) -> None:
    """Part from the other processes when the lead has finished its work as well."""
    ranks.tell()
    dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET_NUMBERS or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket
