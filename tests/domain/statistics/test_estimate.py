import random

import pytest

from app.domain.statistics.estimate import Estimate, estimate_mean


def test_equal_seeds_give_equal_intervals_and_others_nearly_equal_ones() -> None:
    values = [random.Random(3).gauss(1, 2) for _ in range(40)]
    values = [value + n / 40 for n, value in enumerate(values)]
    first, again, other = (estimate_mean(values, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.low == pytest.approx(other.low, abs=0.1)


def test_the_interval_is_as_wide_as_students() -> None:
    chance = random.Random(0)
    values = [chance.gauss(5, 1) for _ in range(16)]
    found = estimate_mean(values)
    assert (found.high - found.low) / 2 == pytest.approx(2.131 * found.standard_error, rel=0.08)  # t of 15 degrees of freedom
    assert found.low < found.value < found.high


def test_one_value_has_no_interval_and_equal_values_have_no_width() -> None:
    assert estimate_mean([2.5]) == Estimate(2.5)
    assert not estimate_mean([2.5]).excludes_zero
    assert estimate_mean([0.5] * 9) == Estimate(0.5, 0.5, 0.5, 0.0)
    assert not estimate_mean([0.0] * 9).excludes_zero


@pytest.mark.parametrize(("values", "said"), [([], "no values"), ([1.0, float("nan")], "finite"), ([float("inf")], "finite")])
def test_what_has_no_mean_is_refused(values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimate_mean(values)
