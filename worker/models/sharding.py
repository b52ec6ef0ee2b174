"""FSDP2: every process holds a slice of each weight, and layers are made whole only while they run.

Weights are cut along their first dimension. The embedding, the last norm and the head are one group that stays whole from the
forward pass to the end of the backward pass, because the loss reads the head's weight directly (worker.var.logprobs).
"""

import math
import types
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from worker.models.adapter import Body, find_layers
from worker.models.parallel import Ranks

Model = TypeVar("Model", bound=Body)


@dataclass(frozen=True)
class Shard:
    """One process's slice of a weight: `local` is where it lies, rows `start` to `start + len(local)` of `shape`."""

    local: Tensor
    shape: tuple[int, ...]
    num_rows: int  # of every slice but the last ones
    start: int

    def cut(self, whole: Tensor) -> Tensor:
        """This process's rows of a whole tensor."""
        return whole[self.start : self.start + len(self.local)]

    def part_of(self, gradient: Tensor) -> Tensor:
        """Return the slice within a sharded gradient."""
        return gradient.to_local() if isinstance(gradient, DTensor) else gradient

    def gather(self, part: Tensor, ranks: Ranks) -> Tensor:
        """Return the whole tensor that the processes' parts make, on the CPU of the lead; an empty tensor on the others."""
        padded = part.new_zeros(self.num_rows, *self.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(ranks.size)] if ranks.is_lead else None
        dist.gather(padded, parts, dst=0)
        return torch.empty(0) if parts is None else torch.cat([slice_.cpu() for slice_ in parts])[: self.shape[0]]


def shard_of(parameter: nn.Parameter) -> Shard | None:
    """Return the slice behind a sharded parameter; None when the parameter is whole."""
    if not isinstance(parameter, DTensor):
        return None
    mesh = parameter.device_mesh
    num_rows = math.ceil(parameter.shape[0] / mesh.size())
    start = min(mesh.get_local_rank() * num_rows, parameter.shape[0])
    return Shard(parameter.to_local().detach(), tuple(parameter.shape), num_rows, start)


class _Body:
    """The network below its head, called through the sharded network, whose hooks gather and free the weights."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.config = network.config

    def __call__(self, **inputs: Any) -> Any:
        return self._network.run_below_head(**inputs)


def shard(model: Model) -> Model:
    """Cut the model over all processes, in place; gradients come back summed, as float32 on the way."""
    network, ranks = model.network, model.ranks
    mesh = init_device_mesh(model.device.type, (ranks.size,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    body = model.body
    for layer in find_layers(body):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    network.run_below_head = types.MethodType(lambda _self, **inputs: body(**inputs), network)
    register_fsdp_forward_method(network, "run_below_head")
    return replace(model, body=_Body(network), is_sharded=True)


def gather_weights(model: Body) -> dict[str, Tensor]:
    """Return all trained weights as whole tensors on the CPU of the lead; nothing on the others, which must call this as well."""
    found = {}
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            slice_ = shard_of(parameter)
            found[name] = parameter.detach() if slice_ is None else slice_.gather(slice_.local, model.ranks)
    return found if model.ranks.is_lead else {}
