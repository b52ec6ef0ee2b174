"""LoRA on a network: which of its weights get an adapter, which don't, and why a choice of them can't be had.

A name stands for modules (`q_proj`, `embed_tokens`) or, where a mixture keeps its experts fused, for a parameter of a module
(`experts.gate_up_proj`); `all-linear` may stand among names.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from app.domain.errors import InvalidInput, RecipeInvalid
from app.domain.events import Change, FindingRaised
from app.domain.recipe import LoraSettings
from app.system.numbers import percent
from worker.models.adapter import LanguageModel, first_line
from worker.models.load import load_config

ALL_LINEAR = "all-linear"
TARGETS = "policy.lora.target_modules"


def add_lora(model: LanguageModel, settings: LoraSettings, seed: int) -> LanguageModel:
    """Put a fresh LoRA adapter into the network, in place; only the adapter is trainable afterwards.

    Raises RecipeInvalid when the target modules don't exist, or include the head (whose weight the loss reads directly).
    """
    torch.manual_seed(seed)
    return replace(model, lora=put_adapter(model.network, settings))


def refuse_targets(folder: Path, settings: LoraSettings) -> None:
    """Raise RecipeInvalid when the policy in `folder` can't carry this adapter; no weight is read for it."""
    config = load_config(folder)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
        put_adapter(network, settings, low_cpu_mem_usage=True)


def put_adapter(network: Any, settings: LoraSettings, **options: Any) -> Any:
    """Return peft's model around the network, which has LoRA layers afterwards; raises RecipeInvalid."""
    from peft import LoraConfig, TaskType, get_peft_model

    _refuse_missing(network, settings.target_modules)  # peft passes over a name, as long as another one is there
    modules, parameters = split_targets(network, settings.target_modules)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, task_type=TaskType.CAUSAL_LM,
        target_modules=modules, target_parameters=parameters or None,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of tied weights and of fused ones: saving minds the first, a finding tells the second
            lora = get_peft_model(network, config, **options)
    except (ValueError, RuntimeError) as error:
        raise _explain(error) from error
    if hasattr(network.get_output_embeddings(), "lora_A"):
        raise RecipeInvalid.at(TARGETS, "The language-model head can't carry an adapter: leave it out.")
    return lora


def load_adapter(base: Any, path: Path) -> Any:
    """Return the base with the adapter in `path` put into it, in place."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tied weights, which are not merged here
        return PeftModel.from_pretrained(base, path, torch_device=str(base.device)).get_base_model()


def split_targets(network: Any, targets: str | Sequence[str]) -> tuple[str | list[str], list[str]]:
    """Return what stands for modules and what for parameters; `all-linear` beside other modules is written out."""
    names = [targets] if isinstance(targets, str) else list(targets)
    modules = [name for name, _ in network.named_modules()]
    given = [name for name in names if name != ALL_LINEAR]
    parameters = [
        name for name in given if not _ends(modules, name) and _ends((known for known, _ in network.named_parameters()), name)
    ]
    others = [name for name in given if name not in parameters]
    if ALL_LINEAR not in names:
        return others, parameters
    return [*(name for name, _ in linear_layers(network)), *others] if others else ALL_LINEAR, parameters


def linear_layers(network: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers that have no adapter, by name; neither the head's nor those of an adapter itself."""
    head = network.get_output_embeddings()
    for name, module in network.named_modules():
        parts = name.split(".")
        inside = parts[-1] == "base_layer" or any(part.startswith("lora_") for part in parts)
        adapted = hasattr(module, "get_base_layer")
        if isinstance(module, nn.Linear | Conv1D) and module is not head and not inside and not adapted:
            yield name, module


def find_unadapted(network: Any, settings: LoraSettings) -> list[FindingRaised]:
    """Return a finding where layers that are asked for stay without an adapter; by `all-linear` all are.

    Fused experts are 3-dimensional parameters, no linear layers; and where peft takes the experts of a mixture by the names
    that they had as layers, it passes over layers of the same names elsewhere (a dense layer, a shared expert).
    """
    targets: list[str] = [settings.target_modules] if isinstance(settings.target_modules, str) else [*settings.target_modules]
    takes_all = ALL_LINEAR in targets
    fused = _fused(network) if takes_all else {}
    layers = {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in linear_layers(network)
        if takes_all or any(_ends([name], target) for target in targets)
    }
    if not fused and not layers:
        return []
    total = sum(weight.numel() for name, weight in network.named_parameters() if "lora_" not in name)
    share = percent((sum(fused.values()) + sum(layers.values())) / total)
    return [_tell_unadapted(targets, _shorten(fused), _shorten(layers), share)]


def _fused(network: Any) -> dict[str, int]:
    """Return the 3-dimensional parameters without an adapter, by name, with their sizes."""
    wrapped = {
        (id(module.get_base_layer()), module.parameter_name) for module in network.modules() if hasattr(module, "parameter_name")
    }
    return {
        f"{name.replace('.base_layer', '')}.{key}": weight.numel()
        for name, module in network.named_modules()
        for key, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and (id(module), key) not in wrapped and not hasattr(module, "parameter_name")
    }


def _tell_unadapted(targets: list[str], fused: list[str], layers: list[str], share: str) -> FindingRaised:
    what = "the experts' fused weights " if fused else "layers that have the names of its experts "
    asked = ", ".join(targets)
    change = Change(field=TARGETS, value=[*targets, *fused]) if fused else Change(field="policy.adaptation", value="full")
    return FindingRaised(
        name="weights_without_adapter", severity="warning", title="Some weights get no adapter",
        evidence=f"With {asked}, {what}({', '.join(fused + layers)}) get no adapter: {share} of the policy's weights.",
        remedy=f"To train them too, set {TARGETS} to {', '.join([*targets, *fused])}."
        if fused
        else "No name puts an adapter there: to train them too, set policy.adaptation to full.",
        changes=(change,),
    )  # fmt: skip


def _shorten(names: dict[str, int]) -> list[str]:
    """Return the last two parts of each name, once."""
    return sorted({".".join(name.split(".")[-2:]) for name in names})


def _ends(names: Any, wanted: str) -> bool:
    return any(name == wanted or name.endswith(f".{wanted}") for name in names)


def _refuse_missing(network: Any, targets: str | Sequence[str]) -> None:
    """Raise RecipeInvalid for names that stand for nothing in the network, with those that there are."""
    known = [name for name, _ in (*network.named_modules(), *network.named_parameters())]
    missing = [name for name in targets if name != ALL_LINEAR and not _ends(known, name)] if isinstance(targets, list) else []
    if missing:
        layers = {name.rsplit(".", 1)[-1] for name, _ in linear_layers(network)}
        there = ", ".join([*sorted(layers), *_shorten(_fused(network))])
        raise RecipeInvalid.at(
            TARGETS, f"LoRA can't be put on {', '.join(missing)}: the policy has no such layer. It has {there}."
        )


def _explain(error: Exception) -> InvalidInput:
    if "dropout" in str(error):
        return RecipeInvalid.at("policy.lora.dropout", "Fused experts can't have LoRA dropout: set policy.lora.dropout to 0.")
    return RecipeInvalid.at(TARGETS, f"LoRA can't be put on these modules: {first_line(error)}")
