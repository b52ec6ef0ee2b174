"""The memory that training will take, beside the largest device that the workers have: for the launch form and a run's page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import RecipeInvalid
from app.domain.memory import MemoryPlan, plan_memory
from app.domain.recipe import Recipe
from app.store.database import now
from app.store.sharing import find_visible
from app.store.tables import Model, Worker
from app.store.workers import is_alive, list_workers
from app.web.recipes import read_planned

PARTS = {
    "weights": "Weights",
    "gradients": "Gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "head": "Output layer",
}
PART_TEXTS = {
    "weights": "the policy itself",
    "gradients": "of what is trained",
    "optimizer": "AdamW's two moments",
    "activations": "kept for the backward pass",
    "head": "logits, chunk by chunk",
}


@dataclass(frozen=True)
class Memory:
    """`plan` None: `sentence` says why. `device`: the largest known one, of `limit_bytes`; `shortage`: what lacks, in words."""

    plan: MemoryPlan | None
    sentence: str = ""
    device: str = ""
    limit_bytes: int | None = None
    shortage: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the plan is more than the largest known device holds."""
        return self.plan is not None and self.limit_bytes is not None and self.plan.predicted_bytes > self.limit_bytes

    @property
    def parts(self) -> list[tuple[str, str, int, float]]:
        """Name, meaning, bytes and share of the whole, of the parts that take any."""
        whole = self.plan.predicted_bytes if self.plan else 0
        parts = self.plan.parts if self.plan else {}
        return [(PARTS.get(name, name), PART_TEXTS.get(name, ""), size, size / whole) for name, size in parts.items() if size]


def foresee(session: Session, owner_id: str, values: Mapping[str, str]) -> Memory:
    """Return the plan for these form values, as far as they say what is trained."""
    try:
        recipe = read_planned(values)
    except RecipeInvalid:
        return Memory(None, "Choose a data set and a policy; the plan is made from the policy's size.")
    model = find_visible(session, Model, owner_id, recipe.policy.model)
    facts = model.facts if model is not None else {}
    return compare(recipe, facts, list_workers(session), now(session))


def compare(recipe: Recipe, facts: Mapping[str, Any], workers: Sequence[Worker], at: datetime) -> Memory:
    """Return the plan of a recipe beside the devices of the workers that are alive."""
    plan = plan_memory(recipe, facts)
    sentence = "" if plan else "The policy's dimensions aren't known before a worker has it, so neither is the memory it takes."
    alive = [worker for worker in workers if is_alive(worker, at)]
    devices = [device for worker in alive for device in worker.devices if device.get("memory_bytes")]
    largest = max(devices, key=lambda device: int(device["memory_bytes"]), default=None)
    return Memory(
        plan,
        sentence,
        str(largest.get("name", "device")) if largest else "",
        int(largest["memory_bytes"]) if largest else None,
        find_shortage(recipe.training.num_processes, [len(worker.devices) for worker in alive]),
    )


def find_shortage(num_processes: int, num_devices: Sequence[int]) -> str:
    """Return why this many processes can't start on any worker; empty when they can, or when a worker without devices may take
    them.
    """
    most = max(num_devices, default=0)
    if num_processes == 1 or most == 0 or num_processes <= most:
        return ""
    return f"{num_processes} devices are to train together, but no worker has more than {most}. Ask for fewer."
