"""The exact divergence of two policies at each position: by hand, against the full table, in pieces, near zero, far apart."""

import math

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from worker.var.divergence import Predictions, token_divergences

N, D, V = 13, 6, 19


def predictions(seed: int, *, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Predictions:
    chance = torch.Generator().manual_seed(seed)
    hidden_ND, head_VD, bias_V = (torch.randn(*shape, generator=chance, dtype=torch.float64) for shape in ((N, D), (V, D), (V,)))
    return Predictions(hidden_ND.to(dtype) * scale, head_VD.to(dtype), bias_V.to(dtype))


def table(model: Predictions) -> torch.Tensor:
    return log_softmax(model.hidden_ND @ model.head_VD.t() + model.bias_V, dim=1)


TARGET_N = torch.arange(N) % V


def test_a_divergence_worked_by_hand() -> None:
    # Logits (ln 3, 0) and (0, 0): p = (3/4, 1/4), q = (1/2, 1/2), KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    head_VD = torch.eye(2, dtype=torch.float64)
    policy = Predictions(torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64), head_VD)
    reference = Predictions(torch.zeros(1, 2, dtype=torch.float64), head_VD)
    found = token_divergences(policy, reference, torch.tensor([1]))
    assert found.kl_N.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12)
    assert found.policy_N.item() == pytest.approx(math.log(0.25), rel=1e-12)
    assert found.reference_N.item() == pytest.approx(math.log(0.5), rel=1e-12)


@pytest.mark.parametrize("table_numbers", [1, V * 4, 2**20])
def test_it_is_that_of_the_whole_table_whatever_the_size_of_a_piece(table_numbers: int) -> None:
    policy, reference = predictions(0), predictions(1)
    found = token_divergences(policy, reference, TARGET_N, table_numbers=table_numbers)
    want = kl_div(table(reference), table(policy), log_target=True, reduction="none").sum(dim=1)
    torch.testing.assert_close(found.kl_N, want)
    torch.testing.assert_close(found.policy_N, table(policy).gather(1, TARGET_N[:, None])[:, 0])
    torch.testing.assert_close(found.reference_N, table(reference).gather(1, TARGET_N[:, None])[:, 0])


def test_a_policy_does_not_diverge_from_itself() -> None:
    same = predictions(0, dtype=torch.float32)
    assert token_divergences(same, same, TARGET_N).kl_N.tolist() == [0.0] * N


def test_a_small_step_is_measured_in_float32_as_in_float64() -> None:
    reference = predictions(0)
    policy = Predictions(reference.hidden_ND + 1e-3 * predictions(1).hidden_ND, reference.head_VD, reference.bias_V)
    want = token_divergences(policy, reference, TARGET_N).kl_N
    assert 1e-7 < want.max() < 1e-4
    narrow = [Predictions(one.hidden_ND.float(), one.head_VD.float(), one.bias_V.float()) for one in (policy, reference)]
    have = token_divergences(narrow[0], narrow[1], TARGET_N).kl_N
    assert (have.double() - want).abs().max() < 1e-7


def test_policies_that_exclude_each_others_tokens_stay_finite() -> None:
    policy, reference = (predictions(seed, dtype=torch.float32, scale=1e3) for seed in (0, 1))
    found = token_divergences(policy, reference, TARGET_N)
    assert found.kl_N.isfinite().all()
    assert found.kl_N.max() > 100


def test_a_token_that_both_models_rule_out_counts_nothing() -> None:
    bias_V = torch.tensor([0.0, 1.0, -torch.inf])
    policy, reference = (Predictions(torch.full((1, 1), size), torch.ones(3, 1), bias_V) for size in (1.0, 2.0))
    assert token_divergences(policy, reference, torch.tensor([0])).kl_N.tolist() == [0.0]


def test_no_positions_have_no_divergence() -> None:
    empty = Predictions(torch.zeros(0, D), torch.zeros(V, D))
    assert token_divergences(empty, empty, torch.zeros(0, dtype=torch.long)).kl_N.shape == (0,)
