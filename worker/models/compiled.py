"""torch.compile for the layers of a network, each by itself: equal layers share one compilation, whatever the rows' lengths.

Attention of packed rows stays as it is (its parts change with every batch); everything between is compiled. Evaluations run
without compilation, as generation would compile anew with every token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.models import packed
from worker.models.adapter import Body, find_layers, first_line

Model = TypeVar("Model", bound=Body)

PROBE = (2, 24)  # rows and tokens


def compile_layers(model: Model, log: Callable[[str], None]) -> Model:
    """Return the model with compiled layers, in place; as it was, and a sentence in the log, where that fails or changes
    numbers.
    """
    layers = list(find_layers(model.body))
    ALL_ATTENTION_FUNCTIONS.register(packed.NAME, torch.compiler.disable(packed.attend))
    want = _probe(model)
    try:
        for layer in layers:
            layer.compile(dynamic=True)
        have = _probe(model)
    except Exception as error:  # no compiler, no kernel, a construct that it does not know: all in their own ways
        _undo(layers)
        log(f"torch.compile fails here, so the run goes on without it: {first_line(error)}")
        return model
    bound = 1e-3 if model.network.dtype == torch.float32 else 6e-2
    worst = max(float((a - b).abs().max() / (1.0 + b.abs().max())) for a, b in zip(have, want, strict=True))
    if not worst <= bound:
        _undo(layers)
        log(f"torch.compile changes the network's numbers (by {worst:.2g}), so the run goes on without it.")
        return model
    log(f"torch.compile: {len(layers)} layer{'s' if len(layers) > 1 else ''}.")
    return replace(model, is_compiled=True)


@contextmanager
def uncompiled(model: Body) -> Iterator[None]:
    """Run compiled layers as they are written."""
    if not model.is_compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _undo(layers: list[torch.nn.Module]) -> None:
    for layer in layers:
        layer._compiled_call_impl = None


def _probe(model: Body) -> list[Tensor]:
    """Hidden states and one gradient of a small padded batch; the weights' own gradients stay as they are."""
    num_rows, num_tokens = PROBE
    ids = torch.arange(num_rows * num_tokens, device=model.device).view(PROBE) * 7919 % model.find_row_limit()
    trained = next(p for p in model.network.parameters() if p.requires_grad)
    with torch.enable_grad():
        hidden = model.run(ids, torch.ones_like(ids)).last_hidden_state
        (gradient,) = torch.autograd.grad(hidden.float().square().mean(), trained, allow_unused=True)
    return [hidden.detach().float(), *([] if gradient is None else [gradient.float()])]
