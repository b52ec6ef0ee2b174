import random

import pytest

from app.domain.statistics.estimate import estimate_mean
from app.domain.statistics.studentized import FEWEST_STUDENTIZED, estimate_skewed_mean


def skewed(num: int, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [chance.expovariate(1.0) ** 2 for _ in range(num)]


def test_the_interval_reaches_further_to_the_side_of_the_large_values() -> None:
    found = estimate_skewed_mean(skewed(64))
    assert found.value - found.low < found.high - found.value
    assert found.high > estimate_mean(skewed(64)).high
    assert found == estimate_skewed_mean(skewed(64)) != estimate_skewed_mean(skewed(64), seed=1)


def test_turned_around_it_reaches_to_the_other_side() -> None:
    found, turned = estimate_skewed_mean(skewed(64)), estimate_skewed_mean([-value for value in skewed(64)])
    assert (turned.value, turned.standard_error) == (-found.value, found.standard_error)
    assert turned.low == pytest.approx(-found.high)


@pytest.mark.parametrize("values", [skewed(FEWEST_STUDENTIZED - 1), [2.0] * 40, [1.0]])
def test_few_values_and_equal_ones_have_the_plain_interval(values: list[float]) -> None:
    assert estimate_skewed_mean(values) == estimate_mean(values)


@pytest.mark.parametrize("values", [[], [1.0] * 20 + [float("nan")]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="value"):
        estimate_skewed_mean(values)
