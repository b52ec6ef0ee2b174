"""Prompts and their responses end to end in one row: every prompt is encoded once with gradient, and nothing is padded.

A family is a prompt with the responses that attend to it; its parts lie one after another, [prompt, response, response, …].
Attention runs part by part, a response over [its prompt, itself], so no part sees another family or another response
(method.md, section 6.2). Everything else in such a network treats each token alone and needs no change.
Legend: N tokens of the packed row, P tokens of a prompt, T of a response, H heads, D size of a hidden state or a head.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "var_studio_packed"
Plan = TypeVar("Plan")


@dataclass(frozen=True)
class Packing:
    """Lengths of the parts, family by family: [P, T, T, …]. A prompt has a token at least, a response may have none."""

    families: Sequence[Sequence[int]]

    @property
    def sizes(self) -> list[int]:
        return [size for family in self.families for size in family]

    def positions(self) -> Tensor:
        """Return each token's position behind its own beginning: int64 [N]."""
        starts = [0 if part == 0 else family[0] for family in self.families for part in range(len(family))]
        return torch.cat([torch.arange(start, start + size) for start, size in zip(starts, self.sizes, strict=True)])

    def offsets(self) -> list[int]:
        """Return where each part begins in the packed row."""
        return [0, *accumulate(self.sizes)][:-1]


@dataclass(frozen=True)
class _Plan:
    packing: Packing
    seen: list[list[Tensor]]  # of each response in each family, which of [prompt, response] its tokens see: bool [T, P + T]


_plan: ContextVar[_Plan] = ContextVar("plan")


def run_packed(body: Any, ids_N: Tensor, packing: Packing) -> Tensor:
    """Hidden states [N, D] of a packed row; `body` is a network below its head that takes position ids.

    Raises ValueError when the network's attention is of another kind. Not for gradient checkpointing, which would
    run the attention again after this has returned.
    """
    seen = [
        [torch.ones(size, family[0] + size, dtype=torch.bool, device=ids_N.device).tril(family[0]) for size in family[1:]]
        for family in packing.families
    ]
    positions_N = packing.positions().to(ids_N.device)
    with attending(body.config, NAME, _plan, _Plan(packing, seen)):
        result = body(input_ids=ids_N[None], position_ids=positions_N[None], use_cache=False)
    return result.last_hidden_state[0]


@contextmanager
def attending(config: Any, name: str, variable: ContextVar[Plan], plan: Plan) -> Iterator[None]:
    """Provide the network attends by the function registered as `name`, which finds its plan in `variable`."""
    usual, token = config._attn_implementation, variable.set(plan)
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual
        variable.reset(token)


def require_plain(attention_mask: Tensor | None, dropout: float, options: Mapping[str, Any]) -> None:
    """Raises ValueError when a network asks for more than plain causal attention."""
    special = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if special or attention_mask is not None or dropout > 0.0:
        raise ValueError(f"packed rows know plain causal attention only, not {special or 'masks and dropout'}")


def attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return an attention function as transformers calls it: [1, H, N, D] each, the result [1, N, H, D]."""
    require_plain(attention_mask, dropout, options)
    plan, groups = _plan.get(), query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    sizes = plan.packing.sizes
    parts = zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    results = []
    for seen in plan.seen:
        query_P, key_P, value_P = next(parts)
        results.append(scaled_dot_product_attention(query_P, key_P, value_P, is_causal=True, scale=scaling))
        for seen_TS in seen:
            query_T, key_T, value_T = next(parts)
            if len(seen_TS) == 0:
                continue
            key_S, value_S = torch.cat([key_P, key_T], dim=2), torch.cat([value_P, value_T], dim=2)
            results.append(scaled_dot_product_attention(query_T, key_S, value_S, attn_mask=seen_TS, scale=scaling))
    return torch.cat(results, dim=2).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
