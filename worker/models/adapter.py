"""One view on every causal LM: the network below the head, the head itself, and perhaps an adapter on top (worker.models.lora).

Legend: N positions, D hidden size, V vocabulary, R rows, T tokens.
Working on hidden states lets the caller send only response positions through the head (method.md, section 6.3).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.errors import ModelInvalid
from worker.models.flex import run_flex
from worker.models.packed import Packing, run_packed
from worker.models.parallel import ALONE, Ranks


@dataclass(frozen=True)
class Head:
    """What turns hidden states into logits: softcap(scale · (h Wᵀ + b))."""

    weight_VD: Tensor
    bias_V: Tensor | None
    softcap: float | None
    scale: float

    def options(self) -> dict[str, Any]:
        """Keyword arguments for worker.var.logprobs."""
        return {"bias_V": self.bias_V, "softcap": self.softcap, "scale": self.scale}

    def logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV = nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V).float() * self.scale
        return logits_NV if self.softcap is None else self.softcap * torch.tanh(logits_NV / self.softcap)


@dataclass(frozen=True)
class Body:
    """A network below its head.

    `network` is the model as Hugging Face built it (with LoRA layers inside when there is an adapter); `shares_prefix` says
    whether left-padded, cached beginnings gave the same numbers as plain ones when it was checked, `packs` whether packed
    rows did. `ranks` are the processes that train it together; `is_sharded`: each holds a slice of every weight.
    """

    network: Any
    body: Any
    takes_positions: bool
    shares_prefix: bool
    packs: bool = False
    ranks: Ranks = ALONE
    is_sharded: bool = False
    flexes: bool = False  # packed rows go through FlexAttention, which gave the same numbers and gradients
    flex_fault: str = ""  # why not, where a GPU would allow it
    is_compiled: bool = False

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def device(self) -> torch.device:
        return self.network.get_input_embeddings().weight.device

    def run(
        self, ids_RT: Tensor, mask_RT: Tensor, positions_RT: Tensor | None = None, *, cache: Any = None, keep: bool = False
    ) -> Any:
        """One pass through the body; `.last_hidden_state` is [R, T, D], `.past_key_values` the cache when `keep`.

        mask_RT spans the cached tokens as well; positions_RT is passed on only to models that take positions.
        """
        options: dict[str, Any] = {"input_ids": ids_RT, "attention_mask": mask_RT, "use_cache": keep or cache is not None}
        if positions_RT is not None and self.takes_positions:
            options["position_ids"] = positions_RT
        if cache is not None:
            options["past_key_values"] = cache
        return self.body(**options)

    def run_packed(self, ids_N: Tensor, packing: Packing) -> Tensor:
        """Hidden states [N, D] of prompts and their responses packed into one row; only where `packs`."""
        return (run_flex if self.flexes else run_packed)(self.body, ids_N, packing)

    def find_row_limit(self) -> int:
        """Ids below this exist in the embedding."""
        rows: int = self.network.get_input_embeddings().weight.shape[0]
        return rows


@dataclass(frozen=True)
class LanguageModel(Body):
    """A causal LM taken apart: its body, its head, and the LoRA adapter on it, if any."""

    lora: Any = None

    @property
    def head(self) -> Head:
        """The head as it is now; made anew at each use, because training changes the weights behind it."""
        layer = self.network.get_output_embeddings()
        text = self.config.get_text_config()
        return Head(layer.weight, getattr(layer, "bias", None), _softcap(text), _scale(text))

    @contextmanager
    def as_reference(self) -> Iterator["LanguageModel"]:
        """Provide the frozen reference: with LoRA the same network without its adapter; without LoRA this is an error."""
        if self.lora is None:
            raise RuntimeError("only a LoRA policy carries its reference inside; load the reference's own weights")
        with self.lora.disable_adapter():
            yield self


def adapt(network: Any) -> LanguageModel:
    """Find body and head and prove them: their logits must equal the model's own; raises ModelInvalid."""
    layer = network.get_output_embeddings()
    body = network.base_model
    if layer is None or not isinstance(getattr(layer, "weight", None), Tensor) or body is network:
        raise ModelInvalid(f"{type(network).__name__} has no separate language-model head, so it can't be trained here.")
    model = LanguageModel(network, body, _takes_positions(body), shares_prefix=False)
    _check_head(model)
    model = replace(model, shares_prefix=_prefix_can_be_shared(model), packs=_rows_can_be_packed(model))
    if not model.packs or model.device.type != "cuda":
        return model
    fault = find_flex_fault(model)
    return replace(model, flexes=not fault, flex_fault=fault)


def adapt_body(network: Any) -> Body:
    """Return the body of a network with any head, checked for whether beginnings can be shared."""
    body = Body(network, network.base_model, _takes_positions(network.base_model), shares_prefix=False)
    return replace(body, shares_prefix=_prefix_can_be_shared(body))


def _takes_positions(body: Any) -> bool:
    return "position_ids" in inspect.signature(body.forward).parameters


def _softcap(config: Any) -> float | None:
    value = getattr(config, "final_logit_softcapping", None)
    return float(value) if value else None


def _scale(config: Any) -> float:
    """Factor on the logits, as the families spell it: Cohere and Falcon-H1 multiply, Granite divides."""
    for name in ("logit_scale", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            return float(value)
    divisor = getattr(config, "logits_scaling", None)
    return 1.0 / float(divisor) if isinstance(divisor, int | float) and divisor else 1.0


@torch.inference_mode()
def _check_head(model: LanguageModel) -> None:
    ids_RT = _probe_ids(model, 2, 7)
    mask_RT = torch.ones_like(ids_RT)
    hidden = model.run(ids_RT, mask_RT).last_hidden_state
    want = model.network(input_ids=ids_RT, attention_mask=mask_RT).logits.float()
    if not want.isfinite().all():
        raise blame_not_finite(model.network)
    if not _close(model.head.logits(hidden), want, model):
        raise ModelInvalid(
            f"{type(model.network).__name__} makes its logits in a way the studio does not know, so its log-probabilities "
            "would be wrong. Use another architecture."
        )


def blame_not_finite(network: Any) -> ModelInvalid:
    """Return why a network's output is not finite: damaged weights, or finite ones that overflow."""
    name, dtype = type(network).__name__, str(network.dtype).removeprefix("torch.")
    damaged = next((key for key, weight in network.named_parameters() if not weight.isfinite().all()), None)
    if damaged is None:
        return ModelInvalid(f"{name} gives numbers that are not finite in {dtype}. Try policy.dtype float32, or another model.")
    return ModelInvalid(
        f"The weights of {name} hold numbers that are not finite ({damaged}): the model's file is damaged. "
        "Take another copy of it, or an earlier checkpoint."
    )


@torch.inference_mode()
def _prefix_can_be_shared(model: Body) -> bool:
    """Compare a left-padded prompt, cached and continued in two copies, with the plain pass."""
    ids_RT = _probe_ids(model, 1, 9)
    want = model.run(ids_RT, torch.ones_like(ids_RT)).last_hidden_state[:, 5:]
    try:
        padded = torch.cat([ids_RT[:, :1].expand(1, 2), ids_RT[:, :5]], dim=1)
        mask = torch.ones(1, 11, dtype=torch.long, device=model.device)
        mask[:, :2] = 0
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = model.run(padded, mask[:, :7], positions[:, :7], keep=True).past_key_values
        rows = torch.zeros(2, dtype=torch.long, device=model.device)
        cache.batch_select_indices(rows)
        have = model.run(ids_RT[:, 5:].expand(2, -1), mask.expand(2, -1), positions[:, 7:].expand(2, -1), cache=cache)
        return _close(have.last_hidden_state, want.expand(2, -1, -1), model)
    except torch.OutOfMemoryError:
        raise  # says nothing of the network
    except (TypeError, ValueError, AttributeError, RuntimeError):
        return False  # recurrent and hybrid families keep other states; they are run without sharing


@torch.inference_mode()
def _rows_can_be_packed(model: Body) -> bool:
    """Compare two packed families with the plain pass over each response behind its prompt."""
    packing = Packing([[4, 3, 5], [2, 4]])
    ids_N = _probe_ids(model, 1, sum(packing.sizes))[0]
    parts, offsets = ids_N.split(packing.sizes), packing.offsets()
    if not model.takes_positions or model.config.get_text_config() is not model.config:
        return False
    try:
        have_ND = model.run_packed(ids_N, packing)
        for prompt, response in ((0, 1), (0, 2), (3, 4)):
            ids_1T = torch.cat([parts[prompt], parts[response]])[None]
            want_TD = model.run(ids_1T, torch.ones_like(ids_1T)).last_hidden_state[0]
            places = [slice(offsets[part], offsets[part] + len(parts[part])) for part in (prompt, response)]
            if not _close(torch.cat([have_ND[place] for place in places]), want_TD, model):
                return False
    except torch.OutOfMemoryError:
        raise  # says nothing of the network
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError):
        return False  # attention of another kind, or none: such families are run in padded rows
    return True


def find_flex_fault(model: Body) -> str:
    """Return why packed rows can't go through FlexAttention: it fails, or gives other hidden states than part by part; empty:
    they can.

    On a GPU the gradients are compared too; on a CPU torch has none of it.
    """
    packing = Packing([[40, 30, 50], [20, 40], [7, 0, 3]])
    ids_N = _probe_ids(model, 1, sum(packing.sizes))[0]
    table, is_cuda = model.network.get_input_embeddings().weight, model.device.type == "cuda"
    needed = table.requires_grad
    try:
        with torch.set_grad_enabled(is_cuda):
            table.requires_grad_(is_cuda or needed)
            want = _states_and_gradients(model, run_packed, ids_N, packing)
            try:
                have = _states_and_gradients(model, run_flex, ids_N, packing)
            except torch.OutOfMemoryError:
                raise  # says nothing of the kernel
            except Exception as error:  # compilers and kernels fail in their own ways; attention part by part is always there
                return f"its kernel fails ({first_line(error)})."
    finally:
        table.requires_grad_(needed)
    return "" if all(map(partial(_close, model=model), have, want)) else "its numbers differ from attention part by part."


def _states_and_gradients(
    model: Body, run: Callable[[Any, Tensor, Packing], Tensor], ids_N: Tensor, packing: Packing
) -> list[Tensor]:
    hidden_ND = run(model.body, ids_N, packing)
    scale_N1 = torch.linspace(-1, 1, len(ids_N), device=ids_N.device)[:, None]
    table = model.network.get_input_embeddings().weight
    gradients = torch.autograd.grad((hidden_ND.float() * scale_N1).mean(), table) if model.device.type == "cuda" else ()
    return [hidden_ND.detach(), *gradients]


def first_line(error: Exception) -> str:
    """Return the first words of an error, or its name; a compiler's goes on for pages."""
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def find_layers(body: Any) -> Iterator[nn.Module]:
    """Yield the blocks of a network: the elements of its outermost module lists."""
    for child in body.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from find_layers(child)


def _probe_ids(model: Body, num_rows: int, num_tokens: int) -> Tensor:
    """Fixed, varied ids that every vocabulary has."""
    ids = torch.arange(num_rows * num_tokens, device=model.device).view(num_rows, num_tokens)
    return (ids * 7919 + 13) % model.find_row_limit()


def _close(have: Tensor, want: Tensor, model: Body) -> bool:
    bound = 1e-3 if model.network.dtype == torch.float32 else 6e-2
    have, want = have.float(), want.float()
    return bool(((have - want).abs().max() <= bound * (1.0 + want.abs().max())).item())
