"""Chunked log-probabilities and the weighted loss: by hand, against the full table, by gradcheck, in bfloat16."""

import math

import pytest
import torch
from torch import Tensor

from worker.var.logprobs import sequence_sums, token_logprobs, weighted_nll

HEADS = {
    "plain": {},
    "scaled": {"scale": 0.37},
    "capped": {"softcap": 2.5},
    "scaled and capped": {"scale": 3.0, "softcap": 1.5},
}
N, D, V = 11, 5, 17

torch.set_num_threads(1)


def draw(dtype: torch.dtype = torch.float64, n: int = N, d: int = D, v: int = V) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """hidden_ND, head_VD, bias_V, target_N, coefficient_N."""
    chance = torch.Generator().manual_seed(n * 1000 + v)
    hidden_ND, head_VD, bias_V = (torch.randn(*shape, generator=chance, dtype=torch.float64) for shape in ((n, d), (v, d), (v,)))
    target_N = torch.randint(0, v, (n,), generator=chance)
    coefficient_N = torch.rand(n, generator=chance, dtype=torch.float64)
    return hidden_ND.to(dtype), head_VD.to(dtype), bias_V.to(dtype), target_N, coefficient_N.to(dtype)


def full_logprobs(
    hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, bias_V: Tensor | None, softcap: float | None = None, scale: float = 1.0
) -> Tensor:
    """The whole table at once, and autograd's own way."""
    logits_NV = hidden_ND @ head_VD.t()
    if bias_V is not None:
        logits_NV = logits_NV + bias_V
    logits_NV = logits_NV * scale
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    return torch.log_softmax(logits_NV, dim=1).gather(1, target_N[:, None])[:, 0]


def test_one_position_worked_by_hand() -> None:
    """h = (1, 2), W = ((1, 0), (0, 1), (1, 1)): z = (1, 2, 3); log p(y=1) = 2 − log(e + e² + e³); ∂L/∂z = c (p − 1[y])."""
    hidden_ND = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    head_VD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    z = math.e + math.e**2 + math.e**3
    loss, logprob_N = weighted_nll(hidden_ND, head_VD, torch.tensor([1]), torch.tensor([0.5], dtype=torch.float64))
    assert logprob_N.tolist() == pytest.approx([2 - math.log(z)])
    assert loss.item() == pytest.approx(-0.5 * (2 - math.log(z)))
    loss.backward()
    slope = [0.5 * math.e / z, 0.5 * (math.e**2 / z - 1), 0.5 * math.e**3 / z]
    assert hidden_ND.grad.tolist()[0] == pytest.approx([slope[0] + slope[2], slope[1] + slope[2]])
    assert head_VD.grad.tolist() == [pytest.approx([s, 2 * s]) for s in slope]


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("chunk_size", [1, 4, N, 256])
def test_chunks_equal_the_whole_table(options: dict[str, float], with_bias: bool, chunk_size: int) -> None:
    hidden_ND, head_VD, bias_V, target_N, coefficient_N = draw()
    inputs = [tensor.requires_grad_() for tensor in (hidden_ND, head_VD, bias_V)]
    bias = bias_V if with_bias else None
    expected_N = full_logprobs(hidden_ND, head_VD, target_N, bias, **options)
    expected = torch.autograd.grad(-(3.0 * coefficient_N * expected_N).sum(), inputs, allow_unused=True)

    loss, logprob_N = weighted_nll(hidden_ND, head_VD, target_N, coefficient_N, bias_V=bias, chunk_size=chunk_size, **options)
    found = torch.autograd.grad(3.0 * loss, inputs, allow_unused=True)
    only_N = token_logprobs(hidden_ND, head_VD, target_N, bias_V=bias, chunk_size=chunk_size, **options)
    assert not logprob_N.requires_grad
    assert not only_N.requires_grad
    for found_N in (logprob_N, only_N):
        assert torch.allclose(found_N, expected_N, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_gradcheck_in_float64(options: dict[str, float], with_bias: bool) -> None:
    hidden_ND, head_VD, bias_V, target_N, coefficient_N = draw(n=6, d=3, v=7)
    inputs = [tensor.requires_grad_() for tensor in (hidden_ND, head_VD, bias_V)]

    def loss(hidden: Tensor, head: Tensor, bias: Tensor) -> Tensor:
        bias_V = bias if with_bias else None
        return weighted_nll(hidden, head, target_N, coefficient_N, bias_V=bias_V, chunk_size=4, **options)[0] + 0.0 * bias.sum()

    assert torch.autograd.gradcheck(loss, inputs)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same() -> None:
    hidden_ND, head_VD, bias_V, target_N, coefficient_N = draw()
    hidden_ND.requires_grad_()
    (frozen,) = torch.autograd.grad(weighted_nll(hidden_ND, head_VD, target_N, coefficient_N, bias_V=bias_V)[0], hidden_ND)
    trained = head_VD.clone().requires_grad_()
    loss = weighted_nll(hidden_ND, trained, target_N, coefficient_N, bias_V=bias_V)[0]
    assert torch.equal(frozen, torch.autograd.grad(loss, [hidden_ND, trained])[0])
    head_only = weighted_nll(hidden_ND.detach(), trained, target_N, coefficient_N, bias_V=bias_V)[0]
    assert torch.autograd.grad(head_only, trained)[0].shape == (V, D)


def test_without_gradient_the_loss_is_the_same() -> None:
    hidden_ND, head_VD, _, target_N, coefficient_N = draw()
    with_gradient = weighted_nll(hidden_ND.requires_grad_(), head_VD, target_N, coefficient_N)[0]
    with torch.no_grad():
        without = weighted_nll(hidden_ND, head_VD, target_N, coefficient_N)[0]
    assert not without.requires_grad
    assert with_gradient.item() == without.item()


def test_the_gradient_flows_on_into_what_made_the_hidden_states() -> None:
    """Tied embeddings: the head is also the table the hidden states come from."""
    _, head_VD, _, target_N, coefficient_N = draw()
    tied_VD = head_VD.clone().requires_grad_()
    ids_N = torch.arange(N)
    loss, _ = weighted_nll(torch.tanh(tied_VD[ids_N]), tied_VD, target_N, coefficient_N, chunk_size=4)
    full = -(coefficient_N * full_logprobs(torch.tanh(tied_VD[ids_N]), tied_VD, target_N, None)).sum()
    ours, theirs = torch.autograd.grad(loss, tied_VD)[0], torch.autograd.grad(full, tied_VD)[0]
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def test_bfloat16_inputs_accumulate_in_float32() -> None:
    """200 chunks of one position: the head's gradient, summed in bfloat16, would be off by far more than its rounding."""
    hidden_ND, head_VD, bias_V, target_N, coefficient_N = draw(torch.bfloat16, n=200, d=8, v=13)
    inputs = [tensor.requires_grad_() for tensor in (hidden_ND, head_VD, bias_V)]
    loss, logprob_N = weighted_nll(hidden_ND, head_VD, target_N, coefficient_N, bias_V=bias_V, softcap=5.0, chunk_size=1)
    found = torch.autograd.grad(loss, inputs)
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact_N = full_logprobs(wide[0], wide[1], target_N, wide[2], softcap=5.0)
    exact = torch.autograd.grad(-(coefficient_N.double() * exact_N).sum(), wide)
    assert loss.dtype == logprob_N.dtype == torch.float32
    assert torch.allclose(logprob_N.double(), exact_N, atol=0.05)
    assert loss.item() == pytest.approx(-(coefficient_N.double() * exact_N).sum().item(), rel=1e-2)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() < 6e-3 * theirs.norm()


def test_a_float32_norm_above_a_bfloat16_head_is_taken() -> None:
    hidden_ND, head_VD, _, target_N, coefficient_N = draw(torch.float32)
    hidden_ND, head_VD = hidden_ND.requires_grad_(), head_VD.bfloat16().requires_grad_()
    weighted_nll(hidden_ND, head_VD, target_N, coefficient_N)[0].backward()
    assert hidden_ND.grad.dtype == torch.float32
    assert head_VD.grad.dtype == torch.bfloat16
    assert token_logprobs(hidden_ND, head_VD, target_N).dtype == torch.float32


def test_very_unlikely_tokens_have_finite_logprobs_and_gradients() -> None:
    """p underflows to 0 in float32, log p must not become −∞."""
    hidden_ND = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    head_VD = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    loss, logprob_N = weighted_nll(hidden_ND, head_VD, torch.tensor([1, 1]), torch.tensor([1.0, 1.0]))
    loss.backward()
    assert logprob_N.tolist() == [-2000.0, 0.0]
    assert token_logprobs(hidden_ND, head_VD, torch.tensor([1, 1])).tolist() == [-2000.0, 0.0]
    assert hidden_ND.grad.tolist() == [[2.0], [0.0]]
    assert head_VD.grad.isfinite().all()


def test_no_position_at_all_gives_a_loss_of_zero() -> None:
    hidden_ND, head_VD, bias_V, _, _ = draw(n=1)
    empty = hidden_ND[:0].requires_grad_()
    loss, logprob_N = weighted_nll(
        empty, head_VD.requires_grad_(), torch.empty(0, dtype=torch.int64), torch.empty(0), bias_V=bias_V
    )
    loss.backward()
    assert loss.item() == 0.0
    assert len(logprob_N) == 0
    assert not head_VD.grad.any()


def test_micro_batches_add_up_to_the_batch() -> None:
    hidden_ND, head_VD, _, target_N, coefficient_N = draw()
    hidden_ND, head_VD = hidden_ND.requires_grad_(), head_VD.requires_grad_()
    whole, _ = weighted_nll(hidden_ND, head_VD, target_N, coefficient_N)
    expected = torch.autograd.grad(whole, [hidden_ND, head_VD])
    total = 0.0
    for rows in (slice(0, 3), slice(3, 4), slice(4, N)):
        loss, _ = weighted_nll(hidden_ND[rows], head_VD, target_N[rows], coefficient_N[rows])
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-12)
    assert torch.allclose(hidden_ND.grad, expected[0], rtol=1e-12)
    assert torch.allclose(head_VD.grad, expected[1], rtol=1e-12)


def test_no_table_of_all_positions_is_ever_made() -> None:
    """The largest tensor made along the way is a chunk's or the head's gradient."""
    hidden_ND, head_VD, _, target_N, coefficient_N = draw(torch.float32, n=300, d=4, v=50)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return made

    with Watch():
        weighted_nll(hidden_ND.requires_grad_(), head_VD.requires_grad_(), target_N, coefficient_N, chunk_size=16)[0].backward()
        token_logprobs(hidden_ND, head_VD, target_N, chunk_size=16)
    assert largest == max(16 * 50, 300 * 4)


def test_sequence_sums_add_each_responses_tokens() -> None:
    logprob_N = torch.tensor([-1.0, -2.0, -4.0, -8.0], dtype=torch.float64)
    assert sequence_sums(logprob_N, torch.tensor([2, 0, 2, 0]), 4).tolist() == [-10.0, 0.0, -5.0, 0.0]
