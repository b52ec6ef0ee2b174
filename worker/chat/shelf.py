"""The models that the chatting process keeps in memory; the least recently used one leaves when another needs its room."""

import gc
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open

from app.domain.answering.chat import ChatModel
from app.domain.errors import ModelInvalid, Unavailable
from app.system.limits import find_data_limit
from worker.models.load import Policy, load_policy, release_memory, resolve_folder
from worker.models.reward import RewardModel
from worker.stages.answering.sources import put_in, read_values

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
MORE = 1.15  # beside the weights: what the forward pass needs
RESERVE_BYTES = {"cpu": 2**30, "cuda": 2**29}  # that others find free
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model")

Key = tuple[object, ...]


class NoRoom(Unavailable):
    """A model does not fit beside those that are needed now."""


@dataclass
class Shelved:
    """A loaded model: a Policy, or a RewardModel."""

    model: Any
    size_bytes: int


class Shelf:
    """Models by what they are; the last one used stands last."""

    def __init__(self, device: str, hub_dir: Path) -> None:
        self._device, self._hub_dir = device, hub_dir
        self._kept: dict[Key, Shelved] = {}
        self._folders: dict[object, Path] = {}  # of hub models, which are not looked for anew while this process lives

    def take(
        self, asked: ChatModel, kind: str, dtype: str, needed: Collection[Key], on_load: Callable[[], None]
    ) -> tuple[Key, Any]:
        """Return a model, loaded if it must be, and its key. `needed` are models that may not leave for it.

        Raises ModelInvalid; NoRoom where it does not fit beside those; Unavailable where it does not fit alone.
        """
        folder = self._find_folder(asked)
        key: Key = (kind, str(folder), dtype, _read_state(folder), asked.checkpoint and asked.checkpoint.model_dump_json())
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)
            return key, self._kept[key].model
        on_load()
        size_bytes = int(MORE * measure(folder, dtype))
        self._make_room(size_bytes, needed, asked.name)
        loaded = RewardModel(folder, dtype=dtype, device=self._device) if kind == "reward" else self._load(folder, dtype, asked)
        self._kept[key] = Shelved(loaded, size_bytes)
        return key, self._kept[key].model

    def _load(self, folder: Path, dtype: str, asked: ChatModel) -> Policy:
        if asked.checkpoint is None:
            return load_policy(folder, dtype=dtype, device=self._device)
        policy = load_policy(folder, dtype=dtype, device=self._device, quantization=asked.checkpoint.policy.quantization)
        return replace(policy, language_model=put_in(policy.language_model, asked.checkpoint, read_values(asked.checkpoint)))

    def _find_folder(self, asked: ChatModel) -> Path:
        source = asked.source
        if source.source == "hub" and source in self._folders:
            return self._folders[source]
        folder = self._folders[source] = resolve_folder(source, self._hub_dir)
        return folder

    def _make_room(self, size_bytes: int, needed: Collection[Key], name: str) -> None:
        while (free := self.find_free()) < size_bytes:
            going = next((key for key in self._kept if key not in needed), None)
            if going is not None:
                del self._kept[going]
                gc.collect()
                release_memory()
            elif needed:
                raise NoRoom(f"“{name}” does not fit beside the others.")
            else:
                where = "GPU" if self._device == "cuda" else "machine"
                raise Unavailable(
                    f"“{name}” takes about {size_bytes / 2**30:.1f} GiB, and the worker's {where} has {max(0, free) / 2**30:.1f} "
                    "GiB free: try later, or choose a smaller model."
                )

    def find_free(self) -> int:
        """Return how many bytes a model may take."""
        if self._device == "cuda":
            return torch.cuda.mem_get_info()[0] - RESERVE_BYTES["cuda"]
        free = psutil.virtual_memory().available - RESERVE_BYTES["cpu"]
        limit = find_data_limit()
        return free if limit is None else min(free, limit - psutil.Process().memory_info().data)

    def clear(self) -> None:
        """Let all models go."""
        self._kept.clear()
        gc.collect()
        release_memory()


def measure(folder: Path, dtype: str) -> int:
    """Return how many bytes the weights in a folder take once they are loaded. Raises ModelInvalid."""
    num_values = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no mapping
                    num_values += torch.Size(file.get_slice(name).get_shape()).numel()
        except (OSError, SafetensorError) as error:
            raise ModelInvalid(f"The weights in {path} can't be read: {error}.") from error
    return num_values * ITEM_BYTES[dtype]


def _read_state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a file of the model does."""
    found = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found)
