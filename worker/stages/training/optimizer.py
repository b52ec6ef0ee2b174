"""The optimizer step: AdamW on float32 values, the schedule, clipping, and the refusal to step on what is not finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from app.domain.training.settings import TrainingSettings
from worker.models.parallel import ALONE, Ranks
from worker.models.sharding import Shard, shard_of


def learning_rate_at(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of the optimizer step that follows `step` finished ones: linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(settings.warmup_share * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[settings.schedule]
    return settings.learning_rate * factor


class Optimizer:
    """AdamW whose state and updates are float32 even for bfloat16 weights, where small updates would be rounded away.

    With several processes, each steps on what it holds: all of every weight, or its shard. Checkpoints hold whole tensors,
    so a run may go on with another number of processes.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, ranks: Ranks = ALONE) -> None:
        self.parameters, self.ranks = dict(parameters), ranks
        self.shards = {name: shard for name, p in parameters.items() if (shard := shard_of(p)) is not None}
        self.masters = {name: _master_of(p, self.shards.get(name)) for name, p in parameters.items()}
        decayed = [m for m in self.masters.values() if m.ndim >= 2]
        plain = [m for m in self.masters.values() if m.ndim < 2]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, fused=True)
        self.grad_clip = settings.grad_clip
        self.kept: dict[str, Tensor] = {}  # the values of another step, on the CPU; of shards this process's own

    def grad_norm(self) -> Tensor:
        """Norm of the whole gradient of all processes, before clipping; the gradients are moved to the float32 masters."""
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad if name not in self.shards else self.shards[name].part_of(parameter.grad)
                master.grad, parameter.grad = gradient.float(), None
        whole = [master for name, master in self.masters.items() if name not in self.shards]
        if not self.ranks.is_alone:
            self._sum_gradients(whole)
        norm = nn.utils.get_total_norm([m.grad for m in whole if m.grad is not None])
        if not self.shards:
            return norm
        parts = [self.masters[name].grad for name in self.shards]
        square = nn.utils.get_total_norm([part for part in parts if part is not None]).square()
        self.ranks.add_up([square])
        return (square.to(norm.device) + norm.square()).sqrt()

    def _sum_gradients(self, masters: list[nn.Parameter]) -> None:
        """Sum what is whole on every process; shards were summed in the backward pass."""
        for master in masters:
            if master.grad is None:  # no row of this process reached it
                master.grad = torch.zeros_like(master)
        self.ranks.add_up([master.grad for master in masters if master.grad is not None])

    def step(self, learning_rate: float, grad_norm: Tensor) -> None:
        """Clip and update; the caller has made sure that the gradient is finite."""
        if self.grad_clip > 0 and bool(grad_norm + 1e-6 > self.grad_clip):  # below, it would multiply every gradient by 1
            nn.utils.clip_grads_with_norm_(list(self.masters.values()), self.grad_clip, grad_norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        with torch.no_grad():
            for name in self.parameters:
                self._write_back(name)
        self.forget_gradients()

    def _write_back(self, name: str) -> None:
        """Give the network the value of its master, where that is a copy."""
        target: Tensor = self.shards[name].local if name in self.shards else self.parameters[name]
        if target.dtype != torch.float32:
            target.copy_(self.masters[name])

    def forget_gradients(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = self.masters[name].grad = None

    def keep(self) -> None:
        """Hold the values as they are now beside those that training goes on with."""
        self.kept = {name: master.detach().to("cpu", copy=True) for name, master in self.masters.items()}

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values with the kept ones."""
        for name, master in self.masters.items():
            now = master.detach().to("cpu", copy=True)
            master.copy_(self.kept[name])
            self.kept[name] = now
            self._write_back(name)

    def save(self) -> dict[str, Tensor]:
        """Values, Adam state and kept values as named tensors, whole ones. Sharded ones go to the lead; all processes must take
        part.
        """
        tensors: dict[str, Tensor] = {}
        for name, master in self.masters.items():
            held = {f"value/{name}": master.detach()}
            held |= {f"kept/{name}": self.kept[name].to(master.device)} if self.kept else {}
            held |= {f"adam/{key}/{name}": value for key, value in self.adam.state.get(master, {}).items()}
            tensors |= {key: self._whole(name, value) for key, value in held.items()}
        return tensors

    def _whole(self, name: str, value: Tensor) -> Tensor:
        return self.shards[name].gather(value, self.ranks) if name in self.shards and value.ndim else value

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `save` gave; raises KeyError when a weight is missing."""
        for name, master in self.masters.items():
            master.copy_(self._mine(name, tensors[f"value/{name}"]))
            self._write_back(name)
            if f"kept/{name}" in tensors:
                self.kept[name] = self._mine(name, tensors[f"kept/{name}"]).to("cpu", copy=True)
            if f"adam/step/{name}" in tensors:
                # AdamW makes this state itself at its first step; the fused form keeps `step` beside the weights
                self.adam.state[master] = {
                    key: self._mine(name, tensors[f"adam/{key}/{name}"]).to(master.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def _mine(self, name: str, value: Tensor) -> Tensor:
        return self.shards[name].cut(value) if name in self.shards and value.ndim else value


def _master_of(parameter: nn.Parameter, shard: Shard | None) -> nn.Parameter:
    """Return what AdamW works on: the weight itself, its shard, or a float32 copy of either."""
    if shard is not None:
        return nn.Parameter(shard.local if parameter.dtype == torch.float32 else shard.local.float())
    return parameter if parameter.dtype == torch.float32 else nn.Parameter(parameter.detach().float())
