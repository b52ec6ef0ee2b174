"""QLoRA: the frozen weights in 4 bits (nf4, double quantisation) under an adapter, by bitsandbytes.

What is trained, scored and evaluated is the quantised policy with its adapter, so the merged artifact is made of just that:
the weights are taken out of 4 bits again, as the network computed with them, and the adapter is added in float32 before the
result is rounded once to the policy's dtype. Merging into the original weights would give another policy than the trained one.
Source: Dettmers et al., QLoRA, arXiv 2305.14314.
"""

import shlex
import sys
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from app.domain.errors import RecipeInvalid


def loading_options(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Arguments for `from_pretrained` that put every linear layer but the head into 4 bits; raises RecipeInvalid."""
    if find_spec("bitsandbytes") is None:
        raise RecipeInvalid.at(
            "policy.quantization",
            "4-bit weights need the package bitsandbytes, which this worker does not have: on its machine, run "
            f"{shlex.quote(sys.executable)} -m pip install bitsandbytes, or set policy.quantization to none.",
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": device}}


def settle(network: nn.Module) -> None:
    """Keep one form of the weights: bitsandbytes would repack them on a CPU at inference, and round where training does not."""
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010  # unknown to the type of modules in general


def dequantize(network: Any, device: str) -> None:
    """Make every quantised layer a plain one, in place: W = dequantised + the adapter's update, if any, in float32."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            is_adapted = hasattr(layer, "get_base_layer")
            base = layer.get_base_layer() if is_adapted else layer
            if not is_quantized(base):
                continue
            weight = _plain_weight(base).float()
            if is_adapted:
                update: Tensor = layer.get_delta_weight("default").float()
                weight += update.to(weight.device)
            setattr(parent, name, _plain_layer(weight.to(device), base))
    for attribute in ("quantization_method", "hf_quantizer", "is_loaded_in_4bit", "is_quantized"):
        if hasattr(network, attribute):
            setattr(network, attribute, None if attribute in ("quantization_method", "hf_quantizer") else False)
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config


def is_quantized(layer: nn.Module) -> bool:
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def _plain_weight(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.detach(), layer.weight.quant_state)


def _plain_layer(weight: Tensor, base: Any) -> nn.Module:
    """Return the layer that was quantised: a linear one, or GPT-2's, whose weight stands the other way round."""
    out_size, in_size = weight.shape
    with torch.device("meta"):
        is_turned = issubclass(getattr(base, "source_cls", nn.Linear), Conv1D)
        plain = Conv1D(out_size, in_size) if is_turned else nn.Linear(in_size, out_size, bias=base.bias is not None)
    plain.weight = nn.Parameter(weight.T.contiguous() if is_turned else weight, requires_grad=False)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.detach().to(weight), requires_grad=False)
    return plain
