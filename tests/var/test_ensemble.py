"""Several reward models as one: worked by hand, and what must not change it."""

import math

import pytest
import torch

from worker.var.ensemble import correlate, measure_scale

FIRST, SECOND, THIRD = (torch.tensor(r, dtype=torch.float64) for r in ([0.0, 2.0, 4.0], [10.0, 14.0, 12.0], [1.0, 2.0, 3.0]))


def test_two_models_are_put_on_the_scale_of_the_first_and_lose_a_part_of_their_deviation() -> None:
    """Both have the deviation √(8/3) of three even steps; the second's are twice as wide and in another order: 0, 4, 2."""
    reward, deviation = measure_scale([FIRST, SECOND], caution=0.5).combine([FIRST, SECOND])
    assert deviation.tolist() == pytest.approx([0.0, math.sqrt(2), math.sqrt(2)])
    assert reward.tolist() == pytest.approx([0.0, 3 - 0.5 * math.sqrt(2), 3 - 0.5 * math.sqrt(2)])


def test_without_caution_it_is_the_mean_and_models_that_agree_lose_nothing() -> None:
    mean, _ = measure_scale([FIRST, SECOND], caution=0.0).combine([FIRST, SECOND])
    assert mean.tolist() == pytest.approx([0.0, 3.0, 3.0])
    same, deviation = measure_scale([FIRST, THIRD, FIRST + 7], caution=5.0).combine([FIRST, THIRD, FIRST + 7])
    assert same.tolist() == pytest.approx(FIRST.tolist())
    assert deviation.abs().max() < 1e-12


def test_neither_zero_nor_unit_of_a_further_model_counts() -> None:
    scale, other = measure_scale([FIRST, SECOND], 1.0), measure_scale([FIRST, 100 - 3 * -SECOND], 1.0)
    assert torch.allclose(scale.combine([FIRST, SECOND])[0], other.combine([FIRST, 100 - 3 * -SECOND])[0])


def test_other_pairs_are_judged_on_the_same_scale_and_what_was_not_asked_stays_unknown() -> None:
    scale = measure_scale([FIRST, SECOND], 1.0)
    reward, _ = scale.combine([torch.tensor([[6.0, math.nan]]), torch.tensor([[16.0, 11.0]])])
    assert reward[0, 0] == pytest.approx(6.0)
    assert reward[0, 1].isnan()


def test_a_model_that_knows_nothing_correlates_with_none() -> None:
    assert correlate([FIRST, THIRD]) == pytest.approx(1.0)
    assert correlate([FIRST, SECOND]) == pytest.approx(0.5)
    assert correlate([FIRST, SECOND, -FIRST]) == pytest.approx((0.5 - 1 - 0.5) / 3)
    assert correlate([FIRST, torch.full((3,), 2.5)]) is None
