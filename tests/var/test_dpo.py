import math
import random

import pytest
import torch

from worker.var.logprobs import sequence_sums, weighted_nll
from worker.var.preferences import Dpo, Likelihoods, PairTerms, Totals

CHOSEN, REJECTED = [0, 2, 2], [1, 3, 4]  # the second prompt has one chosen and two rejected responses


def dpo_terms(logprob_M, reference_M, chosen_P, rejected_P, beta: float, num_pairs: int) -> PairTerms:
    known = Likelihoods(logprob_M, reference_M, torch.ones_like(logprob_M))
    return Dpo(beta).terms(known, chosen_P, rejected_P, Totals(num_pairs, 1))


def plain_loss(logprob: list[float], reference: list[float], beta: float) -> float:
    """DPO's equation 7, one number at a time."""
    total = 0.0
    for c, r in zip(CHOSEN, REJECTED, strict=True):
        margin = beta * ((logprob[c] - reference[c]) - (logprob[r] - reference[r]))
        total -= math.log(1 / (1 + math.exp(-margin)))
    return total / len(CHOSEN)


def draw(seed: int, num: int = 6) -> tuple[list[float], list[float]]:
    chance = random.Random(seed)
    return [chance.uniform(-60, -10) for _ in range(num)], [chance.uniform(-60, -10) for _ in range(num)]


def terms(logprob, reference, beta, pairs=slice(None)):
    have, base = torch.tensor(logprob, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    return dpo_terms(have, base, torch.tensor(CHOSEN)[pairs], torch.tensor(REJECTED)[pairs], beta, len(CHOSEN))


def test_worked_by_hand():
    """β = 0.5, the chosen gained 2 nats and the rejected lost 2: m = 2, L = log(1 + e⁻²), slope 0.5 σ(−2)."""
    found = dpo_terms(torch.tensor([-8.0, -12.0]), torch.tensor([-10.0, -10.0]), torch.tensor([0]), torch.tensor([1]), 0.5, 1)
    slope = 0.5 / (1 + math.exp(2))
    assert float(found.loss) == pytest.approx(math.log(1 + math.exp(-2)))
    assert found.coefficient_M.tolist() == pytest.approx([slope, -slope])
    assert (found.margin_P.tolist(), found.reward_M.tolist()) == ([2.0], [1.0, -1.0])


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_the_plain_one(seed):
    logprob, reference = draw(seed)
    assert float(terms(logprob, reference, 0.1).loss) == pytest.approx(plain_loss(logprob, reference, 0.1), rel=1e-12)


def test_an_untrained_policy_has_the_loss_of_a_coin():
    logprob, _ = draw(1)
    assert float(terms(logprob, logprob, 0.3).loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("seed", range(3))
def test_the_factors_are_the_losss_slopes(seed):
    logprob, reference = draw(seed)
    found = terms(logprob, reference, 0.2)
    for j in range(len(logprob)):
        up, down = ([x + (h if k == j else 0) for k, x in enumerate(logprob)] for h in (1e-5, -1e-5))
        slope = (plain_loss(up, reference, 0.2) - plain_loss(down, reference, 0.2)) / 2e-5
        assert -float(found.coefficient_M[j]) == pytest.approx(slope, abs=1e-8)


def test_parts_of_a_batch_add_up():
    logprob, reference = draw(2)
    whole, parts = terms(logprob, reference, 0.1), [terms(logprob, reference, 0.1, slice(k, k + 1)) for k in range(3)]
    assert float(sum(part.loss for part in parts)) == pytest.approx(float(whole.loss))
    torch.testing.assert_close(sum(part.coefficient_M for part in parts), whole.coefficient_M)


def test_margins_that_would_overflow_stay_finite():
    found = terms([5e5, -5e5, -5e5, 5e5, 0.0], [0.0] * 5, 1.0)
    assert found.loss.isfinite()
    assert found.coefficient_M.isfinite().all()


def test_the_gradient_through_the_head_is_that_of_the_loss_written_out():
    torch.manual_seed(0)
    hidden_ND, head_VD = torch.randn(9, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    target_N, owner_N = torch.randint(11, (9,)), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])
    reference_M = torch.randn(5, dtype=torch.float64) - 5

    def sums() -> torch.Tensor:
        logprob_N = torch.log_softmax(hidden_ND @ head_VD.t(), dim=1).gather(1, target_N[:, None])[:, 0]
        return sequence_sums(logprob_N, owner_N, 5)

    gain_M = 0.7 * (sums() - reference_M)
    written = -torch.nn.functional.logsigmoid(gain_M[CHOSEN] - gain_M[REJECTED]).mean()
    (want,) = torch.autograd.grad(written, head_VD)
    found = dpo_terms(sums().detach(), reference_M, torch.tensor(CHOSEN), torch.tensor(REJECTED), 0.7, 3)
    weighted_nll(hidden_ND, head_VD, target_N, found.coefficient_M[owner_N])[0].backward()
    assert float(found.loss) == pytest.approx(float(written.detach()))
    torch.testing.assert_close(head_VD.grad, want)
