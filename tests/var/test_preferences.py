"""The losses on pairs: worked by hand, against the formulas one number at a time, their slopes, and how parts add up."""

import math
import random

import pytest
import torch

from worker.var.preferences import Dpo, Ipo, Likelihoods, Orpo, PairLoss, Simpo, Totals

CHOSEN, REJECTED = [0, 2, 2], [1, 3, 4]  # the second prompt has one chosen and two rejected responses
LOSSES = {"dpo": Dpo(0.1), "ipo": Ipo(0.2), "simpo": Simpo(2.0, 1.0), "orpo": Orpo(0.3)}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


def plain_loss(name: str, logprob: list[float], reference: list[float], tokens: list[int]) -> float:
    """The papers' formulas, one number at a time."""
    total = 0.0
    for c, r in zip(CHOSEN, REJECTED, strict=True):
        mean_c, mean_r = logprob[c] / tokens[c], logprob[r] / tokens[r]
        if name == "dpo":
            total -= math.log(sigmoid(0.1 * (logprob[c] - reference[c]) - 0.1 * (logprob[r] - reference[r])))
        elif name == "ipo":
            total += (mean_c - reference[c] / tokens[c] - mean_r + reference[r] / tokens[r] - 1 / (2 * 0.2)) ** 2
        elif name == "simpo":
            total -= math.log(sigmoid(2.0 * mean_c - 2.0 * mean_r - 1.0))
        else:
            total -= 0.3 * math.log(sigmoid(log_odds(mean_c) - log_odds(mean_r)))
    if name == "orpo":
        likelihood = sum(logprob[c] for c in CHOSEN) / sum(tokens[c] for c in CHOSEN)
        return total / len(CHOSEN) - likelihood
    return total / len(CHOSEN)


def draw(seed: int, num: int = 6) -> tuple[list[float], list[float], list[int]]:
    chance = random.Random(seed)
    tokens = [chance.randint(3, 12) for _ in range(num)]
    return [-t * chance.uniform(0.2, 3) for t in tokens], [-t * chance.uniform(0.2, 3) for t in tokens], tokens


def terms(loss: PairLoss, logprob, reference, tokens, pairs=slice(None)):
    known = Likelihoods(*(torch.tensor(values, dtype=torch.float64) for values in (logprob, reference, tokens)))
    totals = Totals(len(CHOSEN), sum(tokens[c] for c in CHOSEN))
    return loss.terms(known, torch.tensor(CHOSEN)[pairs], torch.tensor(REJECTED)[pairs], totals)


def test_ipo_worked_by_hand():
    """β = 0.5 aims at 1 nat per token; the ratio is 0.5 for the chosen and −0.25 for the rejected: (0.75 − 1)²."""
    known = Likelihoods(torch.tensor([-2.0, -5.0]), torch.tensor([-4.0, -4.0]), torch.tensor([4, 4]))
    found = Ipo(0.5).terms(known, torch.tensor([0]), torch.tensor([1]), Totals(1, 4))
    assert float(found.loss) == pytest.approx(0.0625)
    assert found.coefficient_M.tolist() == pytest.approx([0.5 / 4, -0.5 / 4])  # −2 (0.75 − 1)/T
    assert found.reward_M.tolist() == pytest.approx([0.25, -0.125])


def test_simpo_worked_by_hand_and_without_a_reference():
    """β = 2, γ = 1: rewards −1 and −4, margin 3, L = log(1 + e⁻²), slope 2 σ(−2) / T."""
    known = Likelihoods(torch.tensor([-2.0, -4.0]), torch.tensor([math.nan, math.nan]), torch.tensor([4, 2]))
    found = Simpo(2.0, 1.0).terms(known, torch.tensor([0]), torch.tensor([1]), Totals(1, 4))
    assert float(found.loss) == pytest.approx(math.log(1 + math.exp(-2)))
    assert found.margin_P.tolist() == pytest.approx([3.0])
    assert found.coefficient_M.tolist() == pytest.approx([2 * sigmoid(-2) / 4, -2 * sigmoid(-2) / 2])


def test_orpo_worked_by_hand():
    """p = 1/2 for both: odds of 1, so the ratio costs β log 2 beside log 2 per token; ∂ log odds/∂(ℓ/T) = 1/(1 − p) = 2."""
    half = math.log(2)
    known = Likelihoods(torch.tensor([-4 * half, -2 * half]), torch.full((2,), math.nan), torch.tensor([4, 2]))
    found = Orpo(0.3).terms(known, torch.tensor([0]), torch.tensor([1]), Totals(1, 4))
    assert float(found.loss) == pytest.approx(1.3 * half, rel=1e-6)
    assert found.coefficient_M.tolist() == pytest.approx([1 / 4 + 0.3 * 0.5 * 2 / 4, -0.3 * 0.5 * 2 / 2], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_plain_one(name, seed):
    drawn = draw(seed)
    assert float(terms(LOSSES[name], *drawn).loss) == pytest.approx(plain_loss(name, *drawn), rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_factors_are_the_losss_slopes(name):
    logprob, reference, tokens = draw(7)
    found = terms(LOSSES[name], logprob, reference, tokens)
    for j in range(len(logprob)):
        up, down = ([x + (h if k == j else 0) for k, x in enumerate(logprob)] for h in (1e-5, -1e-5))
        slope = (plain_loss(name, up, reference, tokens) - plain_loss(name, down, reference, tokens)) / 2e-5
        assert -float(found.coefficient_M[j]) == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up(name):
    drawn = draw(2)
    whole, parts = terms(LOSSES[name], *drawn), [terms(LOSSES[name], *drawn, slice(k, k + 1)) for k in range(3)]
    assert float(sum(part.loss for part in parts)) == pytest.approx(float(whole.loss))
    torch.testing.assert_close(sum(part.coefficient_M for part in parts), whole.coefficient_M)


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_certain_stays_finite(name):
    found = terms(LOSSES[name], [0.0, -1e5, 0.0, -1e5, -1e5, 0.0], [-1.0] * 6, [3] * 6)
    assert found.loss.isfinite()
    assert found.coefficient_M.isfinite().all()
