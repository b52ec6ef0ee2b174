"""Log-probabilities of response tokens, and the weighted loss on them, without ever making a [tokens, vocabulary] table.

Shapes: N response positions, D hidden size, V vocabulary, C positions of one chunk, M responses.
    z_nv = softcap(scale · (h_n · W_v + b_v)),   softcap(z) = cap · tanh(z / cap)
    log p_n = z_n,y(n) − log Σ_v exp z_nv
The matrix products run in the inputs' dtype, as in the model's own forward pass; all that follows in float32 (float64 stays).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@torch.no_grad()
def token_logprobs(
    hidden_ND: Tensor,
    head_VD: Tensor,
    target_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 256,
) -> Tensor:
    """log p of each target token: float32 [N], no gradient. Memory: two [chunk_size, V] tables."""
    hidden_ND = hidden_ND.to(head_VD.dtype)
    logprob_N = hidden_ND.new_empty(len(hidden_ND), dtype=_wide(hidden_ND.dtype))
    for rows, logits_CV in logit_chunks(hidden_ND, head_VD, bias_V, softcap, scale, chunk_size):
        logprob_N[rows] = torch.log_softmax(logits_CV, dim=1).gather(1, target_N[rows, None])[:, 0]
    return logprob_N


def weighted_nll(
    hidden_ND: Tensor,
    head_VD: Tensor,
    target_N: Tensor,
    coefficient_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Return the loss −Σ_n c_n log p_n (float32 scalar) and log p (float32 [N], detached).

    Its gradient for hidden, head and bias is formed chunk by chunk within the forward pass, which the c_n allow as they are
    known before it: logits are made once. What needs no gradient (a frozen head under LoRA) gets none.
    """
    hidden_ND = hidden_ND.to(head_VD.dtype)  # a final norm kept in float32 above a bfloat16 head
    return _WeightedNLL.apply(hidden_ND, head_VD, bias_V, target_N, coefficient_N.detach(), softcap, scale, chunk_size)


def sequence_sums(logprob_N: Tensor, owner_N: Tensor, num_sequences: int) -> Tensor:
    """log π(y_j|x) = Σ over the tokens n of response j of log p_n: [M]; `owner_N` int64 names each token's response."""
    return logprob_N.new_zeros(num_sequences).index_add(0, owner_N, logprob_N)


class _WeightedNLL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        coefficient_N: Tensor,
        softcap: float | None,
        scale: float,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        wide, needs = _wide(hidden_ND.dtype), ctx.needs_input_grad[:3]
        logprob_N = hidden_ND.new_empty(len(hidden_ND), dtype=wide)
        coefficient_N = coefficient_N.to(wide)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs[0] else None
        grad_head_VD = torch.empty_like(head_VD, dtype=wide) if needs[1] else None  # its first chunk fills it
        if grad_head_VD is not None and len(hidden_ND) == 0:
            grad_head_VD.zero_()
        grad_bias_V = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and needs[2] else None
        for rows, logits_CV in logit_chunks(hidden_ND, head_VD, bias_V, softcap, scale, chunk_size):
            target_C1 = target_N[rows, None]
            grad_CV = torch.softmax(logits_CV, dim=1)
            # log p_y = z_y − z_max + log p_max: p_max ≥ 1/V has a safe logarithm, and logsumexp is as slow as a matrix product.
            log_z_C1 = logits_CV.amax(dim=1, keepdim=True) - grad_CV.amax(dim=1, keepdim=True).log_()
            logprob_N[rows] = (logits_CV.gather(1, target_C1) - log_z_C1)[:, 0]
            if not any(needs):
                continue
            # ∂L/∂z_nv = c_n (p_nv − 1[v = y_n]); a cap multiplies by 1 − (z/cap)², the scale by itself.
            grad_CV.scatter_add_(1, target_C1, grad_CV.new_full(target_C1.shape, -1.0))
            grad_CV.mul_(coefficient_N[rows, None] * scale)
            if softcap:
                grad_CV.mul_(logits_CV.div_(softcap).square_().neg_().add_(1))
            if grad_bias_V is not None:
                grad_bias_V += grad_CV.sum(dim=0)
            narrow_CV = grad_CV.to(hidden_ND.dtype)
            if grad_hidden_ND is not None:
                torch.mm(narrow_CV, head_VD, out=grad_hidden_ND[rows])
            if grad_head_VD is not None:
                _add_product(grad_head_VD, narrow_CV.t(), hidden_ND[rows], first=rows.start == 0)
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD, grad_bias_V)
        ctx.dtypes = (hidden_ND.dtype, head_VD.dtype, None if bias_V is None else bias_V.dtype)
        ctx.mark_non_differentiable(logprob_N)
        return -(coefficient_N * logprob_N).sum(), logprob_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        # A head's gradient is as large as the head: where looking is free, a factor of 1 spares the copy.
        is_one = scale.device.type == "cpu" and scale.item() == 1.0
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (*(None if grad is None else (grad if is_one else grad * scale).to(dtype) for grad, dtype in grads), *[None] * 5)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total += left @ right, or = for the first; summed in total's dtype even when the factors are narrower."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
    elif first:
        total.copy_(left @ right)
    else:
        total.add_(left @ right)


def logit_chunks(
    hidden_ND: Tensor, head_VD: Tensor, bias_V: Tensor | None, softcap: float | None, scale: float, chunk_size: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits of `chunk_size` positions at a time, in one reused buffer: the caller may overwrite it."""
    num_rows, wide = len(hidden_ND), _wide(hidden_ND.dtype)
    buffer_CV = hidden_ND.new_empty((min(chunk_size, num_rows), len(head_VD)))
    for start in range(0, num_rows, chunk_size):
        rows = slice(start, min(start + chunk_size, num_rows))
        logits_CV = torch.mm(hidden_ND[rows], head_VD.t(), out=buffer_CV[: rows.stop - start]).to(wide)
        if bias_V is not None:
            logits_CV.add_(bias_V)
        if scale != 1.0:
            logits_CV.mul_(scale)
        if softcap:
            logits_CV.div_(softcap).tanh_().mul_(softcap)
        yield rows, logits_CV
