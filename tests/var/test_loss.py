"""The factors of the loss: by hand, under padding and micro-batches, and from end to end against the slow way."""

import pytest
import torch

from tests.var import plain
from tests.var.batches import as_candidates, draw_batch
from worker.var.logprobs import weighted_nll
from worker.var.loss import token_coefficients
from worker.var.weights import WeightChoices, compute_weights

NORMS = ("token_mean", "sequence_sum", "sequence_mean")

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("loss_norm", "expected"),
    [("token_mean", [0.5 / 6, 3 / 6]), ("sequence_sum", [0.5 / 2, 3 / 2]), ("sequence_mean", [0.5 / 8, 3 / 4])],
)
def test_two_responses_worked_by_hand(loss_norm: str, expected: list[float]) -> None:
    """w = (½, 3), T = (4, 2): Σ T = 6, M = 2."""
    found = token_coefficients(torch.tensor([0.5, 3.0], dtype=torch.float64), torch.tensor([4, 2]), loss_norm)
    assert found.tolist() == pytest.approx(expected, rel=1e-15)


def test_equal_lengths_make_the_three_norms_proportional() -> None:
    weight_M, num_tokens_M = torch.rand(5, dtype=torch.float64), torch.full((5,), 7)
    token_mean, sequence_sum, sequence_mean = (token_coefficients(weight_M, num_tokens_M, norm) for norm in NORMS)
    assert torch.allclose(token_mean, sequence_mean, rtol=1e-14)
    assert torch.allclose(sequence_sum, 7 * sequence_mean, rtol=1e-14)


@pytest.mark.parametrize("loss_norm", NORMS)
def test_responses_outside_the_loss_change_no_mean(loss_norm: str) -> None:
    weight_M, num_tokens_M = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([4, 9, 2])
    enters_M = torch.tensor([True, False, True])
    kept_M = token_coefficients(weight_M, num_tokens_M, loss_norm, enters_M=enters_M)
    alone_M = token_coefficients(weight_M[enters_M], num_tokens_M[enters_M], loss_norm)
    assert kept_M[1] == 0
    assert torch.equal(kept_M[enters_M], alone_M)


def test_no_response_in_the_loss_gives_zeros() -> None:
    for norm in NORMS:
        nothing = token_coefficients(torch.ones(2), torch.tensor([3, 3]), norm, enters_M=torch.zeros(2, dtype=torch.bool))
        assert nothing.tolist() == [0.0, 0.0]


def test_an_empty_response_has_a_finite_factor() -> None:
    for norm in NORMS:
        assert token_coefficients(torch.ones(2), torch.tensor([0, 0]), norm).isfinite().all()


def test_an_unknown_norm_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown loss_norm 'sum'"):
        token_coefficients(torch.ones(1), torch.ones(1), "sum")


@pytest.mark.parametrize("loss_norm", NORMS)
def test_the_whole_way_equals_plain_python(loss_norm: str) -> None:
    """Scores → weights → factors → chunked loss, against Σ_j w_j Σ_t log p written out with the plain weights."""
    batch = draw_batch(11)
    expected_weights = plain.weights(batch, weight_form="posterior", logprob_norm="mean", lambda_=0.5, mean_one=True)
    weight_M = compute_weights(as_candidates(batch), WeightChoices(lambda_=0.5))
    num_tokens_M = torch.tensor(batch.tokens)
    owner_N = torch.repeat_interleave(torch.arange(len(batch.own)), num_tokens_M)
    chance = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(len(owner_N), 6, generator=chance, dtype=torch.float64)
    head_VD = torch.randn(9, 6, generator=chance, dtype=torch.float64)
    target_N = torch.randint(0, 9, (len(owner_N),), generator=chance)

    coefficient_M = token_coefficients(weight_M, num_tokens_M, loss_norm)
    loss, logprob_N = weighted_nll(hidden_ND, head_VD, target_N, coefficient_M[owner_N], chunk_size=7)
    in_full_N = torch.nn.functional.cross_entropy(hidden_ND @ head_VD.t(), target_N, reduction="none")
    assert loss.item() == pytest.approx((coefficient_M[owner_N] * in_full_N).sum().item(), rel=1e-12)

    num = len(batch.tokens)
    divisor_M = {
        "token_mean": [sum(batch.tokens)] * num,
        "sequence_sum": [num] * num,
        "sequence_mean": [num * tokens for tokens in batch.tokens],
    }[loss_norm]
    by_hand = 0.0
    for n, j in enumerate(owner_N.tolist()):
        by_hand -= expected_weights[j] * logprob_N[n].item() / divisor_M[j]
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("loss_norm", NORMS)
def test_accumulated_micro_batches_equal_one_batch(loss_norm: str) -> None:
    """Z and the means span the global batch; the micro-batches' losses and gradients are only added."""
    batch = as_candidates(draw_batch(12, sizes=(2, 2, 2, 2)))
    weight_M = compute_weights(batch, WeightChoices(lambda_=0.5))
    coefficient_M = token_coefficients(weight_M, batch.num_tokens_M, loss_norm)
    owner_N = torch.repeat_interleave(torch.arange(8), batch.num_tokens_M)
    chance = torch.Generator().manual_seed(1)
    inputs_ND = torch.randn(len(owner_N), 6, generator=chance, dtype=torch.float64)
    body_DD = torch.randn(6, 6, generator=chance, dtype=torch.float64, requires_grad=True)
    head_VD = torch.randn(9, 6, generator=chance, dtype=torch.float64, requires_grad=True)
    target_N = torch.randint(0, 9, (len(owner_N),), generator=chance)

    def accumulate(groups: list[list[int]]) -> tuple[float, list[torch.Tensor]]:
        total = 0.0
        for parameter in (body_DD, head_VD):
            parameter.grad = None
        for responses in groups:
            rows_N = torch.isin(owner_N, torch.tensor(responses))
            hidden_ND = torch.tanh(inputs_ND[rows_N] @ body_DD)
            loss, _ = weighted_nll(hidden_ND, head_VD, target_N[rows_N], coefficient_M[owner_N[rows_N]])
            loss.backward()
            total += loss.item()
        return total, [body_DD.grad, head_VD.grad]

    whole, gradients = accumulate([list(range(8))])
    for groups in ([[0, 1], [2, 3], [4, 5], [6, 7]], [[7, 0, 3], [1], [2, 4, 5, 6]]):
        parts, part_gradients = accumulate(groups)
        assert parts == pytest.approx(whole, rel=1e-12)
        for ours, theirs in zip(part_gradients, gradients, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)
