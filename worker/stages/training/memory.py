"""The memory of training: expected by formula, checked by one step before the first, and measured to the end.

On a GPU it is what torch has allocated; on a CPU the weights and what the process grows by while it trains, as its size also
holds Python, libraries and what earlier stages left. Evaluations, which load other models, don't count.
"""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from app.domain.events import MemoryPlanned
from app.domain.memory import Load, plan_memory
from worker.models.adapter import Body
from worker.stages.attempt import AttemptContext
from worker.stages.training.distribution import share_batch
from worker.stages.training.objectives import Objective
from worker.stages.training.optimizer import Optimizer

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
FORGET_PEAK = "5"  # man proc_pid_clear_refs: reset the peak resident set size


class MemoryWatch:
    """Made when the optimizer stands and before the first step: plans, calibrates, tells; then asked after every step."""

    def __init__(self, attempt: AttemptContext, model: Body, optimizer: Optimizer, objective: Objective[Any, Any]) -> None:
        self._attempt, self._device = attempt, model.device
        self._most = 0
        self._resident = _count_bytes(model, optimizer)
        states = _count_states(optimizer)
        self.reset()
        self._held = _read_held(self._device)
        largest = max(objective.batches, key=_count_tokens)
        growth = _try_step(model, optimizer, objective, largest, self._device, self._held)
        self.reset()
        self._planned: MemoryPlanned | None = None
        plan = plan_memory(attempt.recipe, facts_of(model), find_load(model, largest, attempt))
        if plan is not None:
            calibrated = self._resident + states + growth
            self._planned = MemoryPlanned(
                parts=plan.parts,
                predicted_bytes=plan.predicted_bytes,
                calibrated_bytes=calibrated,
                limit_bytes=_limit(self._device),
            )
            attempt.emit(self._planned)

    def reset(self) -> None:
        """Forget a peak that was not training's."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        with suppress(OSError, AttributeError):  # another system's C library: the peak is then that of the whole process
            ctypes.CDLL(None).malloc_trim(0)
            CLEAR.write_text(FORGET_PEAK, encoding="utf-8")

    def note(self) -> int:
        """Return the most memory held so far by training, in bytes."""
        peak = _read_peak(self._device)
        if self._device.type != "cuda":
            peak = self._resident + max(0, peak - self._held)
        self._most = max(self._most, peak)
        return self._most

    def tell_actual(self) -> None:
        """Report the plan again, with what it came to: the last of what was noted."""
        if self._planned is not None and self._most:
            self._attempt.emit(self._planned.model_copy(update={"actual_bytes": self._most}))


def facts_of(model: Body) -> dict[str, Any]:
    """Return the dimensions of a loaded network, as app.ingest.models.folder names them."""
    config, network = model.config.get_text_config(), model.network
    head, table = network.get_output_embeddings(), network.get_input_embeddings().weight
    hidden = getattr(config, "hidden_size", None)
    return {
        "num_parameters": sum(_count(p) for name, p in network.named_parameters() if "lora_" not in name),
        "hidden_size": hidden,
        "num_layers": getattr(config, "num_hidden_layers", None),
        "intermediate_size": getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * (hidden or 0),
        "num_heads": getattr(config, "num_attention_heads", None),
        "num_kv_heads": getattr(config, "num_key_value_heads", None),
        "head_size": getattr(config, "head_dim", None),
        "vocab_size": table.shape[0],
        "tied_embeddings": head is None or head.weight is table,
    }


def find_load(model: Body, batch: Any, attempt: AttemptContext) -> Load:
    """Tokens of the longest forward pass over the batch on this device."""
    size = attempt.recipe.training.micro_batch_size
    if not hasattr(batch, "examples"):  # conversations for a reward model
        rows = sorted((len(row) for row in batch.ids), reverse=True)[: 2 * size if size else None]
        return Load(len(rows) * rows[0], len(rows))
    micros = share_batch(batch.examples, batch.enters_M, size, model)  # type: ignore[arg-type]
    loads = [Load(micro.rows.ids_RT.numel(), micro.rows.target_N.numel()) for micro in micros]
    return max(loads, key=lambda load: load.num_tokens, default=Load(0, 0))


def _try_step(
    model: Body, optimizer: Optimizer, objective: Objective[Any, Any], batch: Any, device: torch.device, held: int
) -> int:
    """Return what forward and backward pass over a batch add to the memory. Gradients and random states are as before it
    afterwards.
    """
    is_cuda = device.type == "cuda"
    states = (torch.get_rng_state(), torch.cuda.get_rng_state(device) if is_cuda else None)
    objective.accumulate(model, batch)
    growth = _read_peak(device) - held
    optimizer.forget_gradients()
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
    return max(0, growth)


def _count_tokens(batch: Any) -> int:
    if hasattr(batch, "examples"):
        return sum(len(e.prompt_ids) + sum(len(r.ids) for r in e.responses) for e in batch.examples)
    return sum(map(len, batch.ids))


def _count_bytes(model: Body, optimizer: Optimizer) -> int:
    """Weights of this process, and the masters that are copies of them."""
    weights = {p.data_ptr(): p.nbytes for p in map(_local, model.network.parameters())}
    return sum((weights | {master.data_ptr(): master.nbytes for master in optimizer.masters.values()}).values())


def _count_states(optimizer: Optimizer) -> int:
    """Return what AdamW's moments will take; nothing once a checkpoint has brought them."""
    return 0 if optimizer.adam.state else sum(8 * master.numel() for master in optimizer.masters.values())


def _local(parameter: Any) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _count(parameter: Any) -> int:
    """Numbers in a weight; one of 4 bits holds two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def _read_held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _read_peak(device: torch.device) -> int:
    """Return the most bytes held since the last reset; where the system doesn't tell, those held now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = PEAK.search(STATUS.read_text(encoding="utf-8")) if STATUS.exists() else None
    return int(found[1]) * 1024 if found else _read_held(device)


def _limit(device: torch.device) -> int:
    """Return what the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total
