"""Prompts and their responses end to end in one row, with FlexAttention: one kernel call a layer whatever the lengths are.

The row is that of worker.models.packed, a family [prompt, response, response, …] after another. A token sees those before it
in its own part and in its family's prompt; FlexAttention skips the blocks in which no token sees any other. On a GPU the kernel
is compiled once for all lengths; without compilation the same code runs anywhere, slowly, which is how it is tested.
Legend: N tokens of the packed row, D hidden size, H heads.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.models.packed import Packing, attending, require_plain

NAME = "var_studio_flex"
BLOCK = 128  # rows are filled up to a multiple of it, which is the kernel's block


@dataclass(frozen=True)
class _FlexPlan:
    block_mask: BlockMask
    attend: Callable[..., Any]


_plan: ContextVar[_FlexPlan] = ContextVar("flex_plan")


def run_flex(body: Any, ids_N: Tensor, packing: Packing) -> Tensor:
    """Hidden states [N, D] of a packed row; `body` is a network below its head that takes position ids.

    Raises ValueError when the network's attention is of another kind.
    """
    filling = -len(ids_N) % BLOCK
    family_N, part_N = label_tokens(packing, filling, ids_N.device)
    positions_N = torch.cat([packing.positions(), torch.zeros(filling, dtype=torch.long)]).to(ids_N.device)
    row_N = torch.cat([ids_N, ids_N.new_zeros(filling)])

    def sees(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = (family_N[query] == family_N[key]) & ((part_N[key] == 0) | (part_N[query] == part_N[key]))
        return same & (key <= query)

    mask = create_block_mask(sees, None, None, len(row_N), len(row_N), device=str(ids_N.device), BLOCK_SIZE=BLOCK)
    with attending(body.config, NAME, _plan, _FlexPlan(mask, _kernel(ids_N.device.type == "cuda"))):
        result = body(input_ids=row_N[None], position_ids=positions_N[None], use_cache=False)
    return result.last_hidden_state[0, : len(ids_N)]


def label_tokens(packing: Packing, filling: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each token's family and its part within it (0: the prompt), int32; the filling is a family of its own."""
    parts = [(family, part, size) for family, sizes in enumerate(packing.families) for part, size in enumerate(sizes)]
    parts.append((len(packing.families), 0, filling))
    size_P = torch.tensor([size for *_, size in parts])
    family_N = torch.tensor([family for family, *_ in parts], dtype=torch.int32).repeat_interleave(size_P)
    part_N = torch.tensor([part for _, part, _ in parts], dtype=torch.int32).repeat_interleave(size_P)
    return family_N.to(device), part_N.to(device)


@cache
def _kernel(compiles: bool) -> Callable[..., Any]:
    attend: Any = flex_attention
    kernel: Callable[..., Any] = torch.compile(attend, dynamic=True) if compiles else attend
    return kernel


def _attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' attention functions do: [1, H, N, D] each, the result [1, N, H, D]."""
    require_plain(attention_mask, dropout, options)
    plan, grouped = _plan.get(), query.shape[1] != key.shape[1]
    result = plan.attend(query, key, value, block_mask=plan.block_mask, scale=scaling, enable_gqa=grouped)
    return result.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
