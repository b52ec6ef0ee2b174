import math

import pytest
import torch

from worker.var.bradley_terry import bradley_terry_loss


def test_worked_by_hand():
    reward_M = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    loss, margin_P = bradley_terry_loss(reward_M, torch.tensor([0, 2]), torch.tensor([1, 1]), 2)
    assert margin_P.tolist() == [1.0, -1.0]
    assert float(loss) == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2)


def test_parts_of_a_batch_add_up_and_carry_the_gradient():
    reward_M = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    chosen_P, rejected_P = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    assert torch.autograd.gradcheck(lambda reward: bradley_terry_loss(reward, chosen_P, rejected_P, 3)[0], reward_M)
    whole, _ = bradley_terry_loss(reward_M, chosen_P, rejected_P, 3)
    parts = [bradley_terry_loss(reward_M, chosen_P[k : k + 1], rejected_P[k : k + 1], 3)[0] for k in range(3)]
    torch.testing.assert_close(sum(parts), whole)


def test_fitting_tables_recovers_the_odds_of_the_labels():
    """One answer is preferred to the other in 3 of 4 comparisons: the fitted difference is log 3."""
    table = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss, _ = bradley_terry_loss(table, torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 0]), 4)
        loss.backward()
        optimizer.step()
    assert float((table[0] - table[1]).detach()) == pytest.approx(math.log(3), abs=1e-3)
