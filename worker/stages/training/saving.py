"""A trained network on the disk in Hugging Face's form, and read from there again: `model/` whole, `adapter/` for its base.

What is saved must be what was trained: an adapter on embeddings whose weight is the head's too moves the embeddings alone, so
they part before it is merged; and rounding to the number type of the base happens once, after merging.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from app.domain.jobs import ModelSource
from app.domain.recipe import PolicySettings
from worker.models.adapter import LanguageModel
from worker.models.load import DTYPES
from worker.models.quantize import dequantize

FILE_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Precision:
    """The number type to save in, and the weights that stay in float32, by name."""

    dtype: torch.dtype
    kept: frozenset[str] = frozenset()


def choose_precision(policy: PolicySettings, folder: Path) -> Precision:
    """Return the number type asked for, else that of most of the base's weights, unless training was in a narrower one.

    Beside 16 bits, what the base itself has in float32 stays so.
    """
    trained = DTYPES[policy.dtype]
    if policy.saved_dtype != "base":
        return Precision(DTYPES[policy.saved_dtype])
    dtypes, sizes = read_dtypes(folder)
    base = FILE_DTYPES.get(sizes.most_common(1)[0][0])
    if base is None or base.itemsize > trained.itemsize:
        return Precision(trained)
    narrow = base.itemsize < torch.float32.itemsize
    return Precision(base, frozenset(name for name, dtype in dtypes.items() if dtype == "F32" and narrow))


def read_dtypes(folder: Path) -> tuple[dict[str, str], Counter[str]]:
    """Return the number type of every weight in the folder's files, from their headers, and how many numbers have each type."""
    dtypes: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                part = file.get_slice(name)
                dtypes[name] = part.get_dtype()
                sizes[part.get_dtype()] += math.prod(part.get_shape())
    return dtypes, sizes


def save_adapter(lora: Any, tokenizer: Any, path: Path, source: ModelSource, folder: Path) -> None:
    """Write the adapter with its tokenizer; its configuration names the base as the world outside knows it.

    Of the hub, the name and the commit that was trained on, which is the name of the cache's folder.
    """
    config = lora.peft_config["default"]
    config.base_model_name_or_path = source.name or source.path
    config.revision = folder.name if source.source == "hub" else None
    lora.save_pretrained(path, save_embedding_layers=False)
    tokenizer.save_pretrained(path)


def merge(model: LanguageModel) -> Any:
    """Return the network, in place, with the adapter in its weights, in float32 on the CPU: an update below the spacing of 16
    bits would be rounded away.
    """
    network = model.network
    untie(network)
    dequantize(network, "cpu")
    network.to(device="cpu", dtype=torch.float32)
    return model.lora.merge_and_unload()


def widen(network: Any) -> Any:
    """Return the network, in place, with the weights that it computes with, in float32."""
    dequantize(network, str(network.device))
    return network.to(dtype=torch.float32)


def untie(network: Any) -> None:
    """Give the head a weight of its own where it is the embeddings' and these carry an adapter."""
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    if not hasattr(table, "get_base_layer") or head.weight is not table.get_base_layer().weight:
        return
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (network.config, network.config.get_text_config()):
        config.tie_word_embeddings = False


def save_network(network: Any, tokenizer: Any, path: Path, precision: Precision, base: Path) -> None:
    """Write the network, rounded in place, with its tokenizer and the generation settings of its base as they are."""
    cast(network, precision)
    try:
        network.save_pretrained(path)
    except ValueError:
        # Some published models carry generation settings that their own library refuses to save again.
        network.generation_config = type(network.generation_config)()
        network.save_pretrained(path)
        if (base / GENERATION).is_file():
            shutil.copyfile(base / GENERATION, path / GENERATION)
    tokenizer.save_pretrained(path)


def declare_ends(path: Path, end_ids: Iterable[int]) -> None:
    """Add the tokens that end an answer to those at which the folder's generation settings stop, where it has settings."""
    file = path / GENERATION
    if not file.is_file():
        return
    settings = json.loads(file.read_text("utf-8"))
    declared = settings.get("eos_token_id")
    known = declared if isinstance(declared, list) else [] if declared is None else [declared]
    missing = sorted(set(end_ids).difference(known))
    if missing:
        file.write_text(json.dumps(settings | {"eos_token_id": known + missing}, indent=2) + "\n", "utf-8")


def cast(network: Any, precision: Precision) -> None:
    """Bring the weights that are in the network's number type to another one, in place."""
    for parameter in _weights(network, precision):
        parameter.data = parameter.data.to(precision.dtype)


def round_weights(network: Any, precision: Precision) -> bool:
    """Round the weights to what another number type has, in place, and leave them in their own; returns whether all fit."""
    is_finite = True
    for parameter in _weights(network, precision):
        parameter.data.copy_(parameter.data.to(precision.dtype))
        is_finite = is_finite and bool(parameter.data.isfinite().all())
    return is_finite


def _weights(network: Any, precision: Precision) -> list[nn.Parameter]:
    trained = network.dtype
    return [p for name, p in network.named_parameters() if p.dtype == trained and name not in precision.kept]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def let_go(network: nn.Module) -> None:
    """Free the memory of all weights and their gradients, whoever still holds the network."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.grad = None
        tensor.data = tensor.new_empty(0)
