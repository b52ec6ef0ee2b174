import math
import random

import pytest
import torch

from worker.var.kto import kto_terms

SIGNS = [1, -1, 1, 0, -1, -1]


def plain_loss(logprob, reference, kl: float, beta: float, desirable: float, undesirable: float) -> float:
    """The paper's equation 8, one number at a time."""
    total, num = 0.0, 0
    for have, base, sign in zip(logprob, reference, SIGNS, strict=True):
        if sign == 0:
            continue
        value = 1 / (1 + math.exp(-sign * beta * (have - base - kl)))
        total += (desirable if sign > 0 else undesirable) * (1 - value)
        num += 1
    return total / num


def draw(seed: int) -> tuple[list[float], list[float]]:
    chance = random.Random(seed)
    return [chance.uniform(-30, -10) for _ in SIGNS], [chance.uniform(-30, -10) for _ in SIGNS]


def terms(logprob, reference, part=slice(None), kl=1.5, beta=0.2, weights=(1.0, 1.7)):
    have, base = (torch.tensor(values, dtype=torch.float64)[part] for values in (logprob, reference))
    return kto_terms(have, base, torch.tensor(SIGNS)[part], kl, beta, weights, sum(sign != 0 for sign in SIGNS))


def test_worked_by_hand():
    """β = 0.5, KL = 1: a desirable response that gained 3 nats has u = 1, an undesirable one that did u = −1."""
    found = kto_terms(torch.tensor([-7.0, -7.0]), torch.tensor([-10.0, -10.0]), torch.tensor([1, -1]), 1.0, 0.5, (1.0, 2.0), 2)
    up = 1 / (1 + math.exp(-1))
    assert float(found.loss) == pytest.approx(((1 - up) + 2 * up) / 2)
    assert found.coefficient_M.tolist() == pytest.approx([0.5 * up * (1 - up) / 2, -2 * 0.5 * up * (1 - up) / 2])
    assert found.reward_M.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_plain_one_and_the_factors_are_its_slopes(seed):
    logprob, reference = draw(seed)
    found = terms(logprob, reference)
    assert float(found.loss) == pytest.approx(plain_loss(logprob, reference, 1.5, 0.2, 1.0, 1.7), rel=1e-12)
    for j in range(len(SIGNS)):
        up, down = ([x + (h if k == j else 0) for k, x in enumerate(logprob)] for h in (1e-5, -1e-5))
        slope = (plain_loss(up, reference, 1.5, 0.2, 1.0, 1.7) - plain_loss(down, reference, 1.5, 0.2, 1.0, 1.7)) / 2e-5
        assert -float(found.coefficient_M[j]) == pytest.approx(slope, abs=1e-9)


def test_an_untrained_policy_loses_half_of_every_weight():
    logprob, _ = draw(1)
    assert float(terms(logprob, logprob, kl=0.0, weights=(1.0, 1.0)).loss) == pytest.approx(0.5)


def test_parts_of_a_batch_add_up_and_what_does_not_count_is_not_read():
    logprob, reference = draw(2)
    reference[3] = math.nan
    whole, parts = terms(logprob, reference), [terms(logprob, reference, slice(k, k + 2)) for k in (0, 2, 4)]
    assert float(sum(part.loss for part in parts)) == pytest.approx(float(whole.loss))
    torch.testing.assert_close(torch.cat([part.coefficient_M for part in parts]), whole.coefficient_M)
    assert whole.coefficient_M[3] == 0
