"""The optimizer step: AdamW on float32 values, the schedule, clipping, and the refusal to step on what is not finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from app.domain.recipe import TrainingSettings


def learning_rate_at(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of the optimizer step that follows `step` finished ones: linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(settings.warmup_share * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[settings.schedule]
    return settings.learning_rate * factor


class Optimizer:
    """AdamW whose state and updates are float32 even for bfloat16 weights, where small updates would be rounded away."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings) -> None:
        self.parameters = dict(parameters)
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for name, p in parameters.items()
        }
        decayed = [m for m in self.masters.values() if m.ndim >= 2]
        plain = [m for m in self.masters.values() if m.ndim < 2]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate, fused=True)
        self.grad_clip = settings.grad_clip

    def grad_norm(self) -> Tensor:
        """Norm of the whole gradient, before clipping; the gradients are moved to the float32 masters."""
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter and parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
        return nn.utils.get_total_norm([m.grad for m in self.masters.values() if m.grad is not None])

    def step(self, learning_rate: float, grad_norm: Tensor) -> None:
        """Clip and update; the caller has made sure that the gradient is finite."""
        if self.grad_clip > 0 and bool(grad_norm + 1e-6 > self.grad_clip):  # below, it would multiply every gradient by 1
            nn.utils.clip_grads_with_norm_(list(self.masters.values()), self.grad_clip, grad_norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])
        self.forget_gradients()

    def forget_gradients(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.grad = self.masters[name].grad = None

    def save(self) -> dict[str, Tensor]:
        """Values and Adam state as named tensors."""
        tensors = {f"value/{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.adam.state.get(master, {}).items():
                tensors[f"adam/{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `save` gave; raises KeyError when a weight is missing."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"value/{name}"])
            if self.parameters[name] is not master:
                self.parameters[name].copy_(master)
            if f"adam/step/{name}" in tensors:
                # AdamW makes this state itself at its first step; the fused form keeps `step` beside the weights
                self.adam.state[master] = {
                    key: tensors[f"adam/{key}/{name}"].to(master.device) for key in ("step", "exp_avg", "exp_avg_sq")
                }
