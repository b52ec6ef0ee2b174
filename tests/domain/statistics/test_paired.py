import math
import random

import pytest
from scipy.stats import nct
from scipy.stats import t as student

from app.domain.findings import wilson_interval
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.paired import (
    FEWEST_TOLD_APART,
    compare_paired,
    exchange_test,
    needed_for_width,
    needed_prompts,
    paired_gain,
    win_rate,
)


def power_of(effect: float, num: int) -> float:
    """The power of the two-sided paired t-test at 5 % for a mean difference of so many standard deviations."""
    limit, shift = student.ppf(0.975, num - 1), effect * math.sqrt(num)
    return float(nct.sf(limit, num - 1, shift) + nct.cdf(-limit, num - 1, shift))


def test_pairs_tell_what_two_means_hide() -> None:
    chance = random.Random(1)
    hardness = [chance.gauss(0, 5) for _ in range(32)]  # the prompts differ more than the models
    first = [hard + 0.5 + chance.gauss(0, 0.3) for hard in hardness]
    second = [hard + chance.gauss(0, 0.3) for hard in hardness]
    found = compare_paired(first, second)
    assert found.num_prompts == 32
    assert found.told_apart
    assert found.gain.value == pytest.approx(0.5, abs=0.2)
    assert 0 < found.gain.low < found.gain.value
    back = compare_paired(second, first)
    assert back.gain.value == -found.gain.value
    assert back.win_rate.value == 1 - found.win_rate.value


def test_ties_count_half_and_a_win_rate_without_ties_has_wilsons_interval() -> None:
    assert win_rate([1, 1, 0, 5], [0, 1, 1, 4]).value == 0.625
    found = win_rate([1] * 20 + [0] * 12, [0] * 20 + [1] * 12)
    assert (found.low, found.high) == pytest.approx(wilson_interval(20, 32), abs=1e-5)


def test_ties_make_a_win_rate_surer() -> None:
    tied = win_rate([1] * 12 + [0] * 4 + [0] * 16, [0] * 12 + [1] * 4 + [0] * 16)
    split = win_rate([1] * 20 + [0] * 12, [0] * 20 + [1] * 12)
    assert tied.value == split.value == 0.625
    assert tied.low > split.low
    assert tied.standard_error < split.standard_error


@pytest.mark.parametrize("num", [1, 2, 32, 500])
def test_at_the_edges_the_interval_keeps_its_width(num: int) -> None:
    z_squared = 1.959964**2
    won, lost, tied = win_rate([1] * num, [0] * num), win_rate([0] * num, [1] * num), win_rate([0] * num, [0] * num)
    assert (won.low, won.high) == pytest.approx((num / (num + z_squared), 1), abs=1e-4)
    assert (lost.low, lost.high) == pytest.approx((0, z_squared / (num + z_squared)), abs=1e-4)
    assert (tied.low, tied.high) == pytest.approx([0.5 + sign * z_squared / (num + z_squared) / 2 for sign in (-1, 1)], abs=1e-4)


def test_equal_models_are_not_told_apart_whatever_the_rewards() -> None:
    found = compare_paired([1.5] * 40, [1.5] * 40)
    assert found.gain == Estimate(0.0, 0.0, 0.0, 0.0)
    assert not found.told_apart
    assert found.needed_prompts is None


def test_few_pairs_tell_nothing_however_alike_they_are() -> None:
    for num in range(1, FEWEST_TOLD_APART):
        assert not compare_paired([1.0] * num, [0.0] * num).told_apart
    assert compare_paired([1.0] * FEWEST_TOLD_APART, [0.0] * FEWEST_TOLD_APART).told_apart
    assert compare_paired([1.0], [0.0]).gain == Estimate(1.0)


def test_the_exchange_test_counts_all_exchanges_of_few_pairs() -> None:
    assert exchange_test([1.0] * 6) == pytest.approx(2 / 64)
    assert exchange_test([3.0, -1.0]) == pytest.approx(1.0)
    assert exchange_test([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert exchange_test([0.0] * 50) == exchange_test([1.0]) == 1.0
    assert exchange_test([0.5] * 200) == pytest.approx(1 / 2001)  # none of those drawn, and the one that is


def test_lists_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_gain([1.0, 2.0], [1.0])
    for compare in (paired_gain, win_rate):
        with pytest.raises(ValueError, match="no"):
            compare([], [])


@pytest.mark.parametrize("effect", [0.15, 0.3, 0.6, 1.2])
def test_the_needed_prompts_have_the_power_that_was_wanted(effect: float) -> None:
    differences = [effect + sign for sign in (-1, 1) for _ in range(500)]
    wanted = needed_prompts([effect + (d - effect) * math.sqrt(999 / 1000) for d in differences])  # deviation exactly 1
    assert power_of(effect, wanted) >= 0.795
    assert power_of(effect, wanted - 2) < 0.81


def test_what_shows_no_effect_asks_for_no_number_of_prompts() -> None:
    assert needed_prompts([]) is needed_prompts([3.0]) is needed_prompts([1.0, -1.0]) is None
    assert needed_prompts([1.0, 1.0, 1.0]) == FEWEST_TOLD_APART
    assert needed_prompts([1e-200, -1.0, 1.0]) is None


def test_intervals_cover_the_truth_and_equal_models_pass_for_equal() -> None:
    """A small form of the simulation in tests/bench/test_statistics.py."""
    chance = random.Random(11)
    covered = apart = 0
    for seed in range(200):
        first = [chance.gauss(0.4, 1) for _ in range(24)]
        second = [chance.gauss(0.4, 1) for _ in range(24)]
        gain = paired_gain(first, second, seed=seed)
        apart += gain.excludes_zero
        shifted = paired_gain([reward + 0.7 for reward in first], second, seed=seed)
        covered += shifted.low <= 0.7 <= shifted.high
    assert covered >= 182  # fewer have a chance of 1 in 300
    assert apart <= 18


def test_two_equal_models_are_told_apart_in_a_twentieth_at_most() -> None:
    chance, apart = random.Random(12), 0
    for seed in range(200):
        first, second = ([chance.gauss(0, 1) for _ in range(60)] for _ in range(2))
        apart += compare_paired(first, second, seed=seed).told_apart
    assert apart <= 10


def test_a_planted_win_rate_is_found_as_often_as_a_paired_test_can() -> None:
    chance, found = random.Random(7), 0
    for seed in range(60):
        wins = [1.0 if chance.random() < 0.6 else -1.0 for _ in range(200)]
        found += compare_paired(wins, [0.0] * 200, seed=seed).told_apart
    assert found / 60 == pytest.approx(power_of(0.2 / math.sqrt(0.96), 200), abs=0.12)  # of 200 prompts, 81 %


def test_so_many_prompts_give_the_wanted_width() -> None:
    wins = [1.0] * 60 + [-1.0] * 40
    needed = needed_for_width(wins, 0.05)
    assert needed == pytest.approx(0.96 * (1.96 / 0.1) ** 2, rel=0.03)
    more = [1.0] * round(0.6 * needed) + [-1.0] * round(0.4 * needed)
    found = win_rate(more, [0.0] * len(more))
    assert found.high - found.low == pytest.approx(0.1, abs=0.002)
    assert needed_for_width([1.0] * 30, 0.05) > 30  # where all are won, more are wanted still
    assert needed_for_width([1.0], 0.05) is None
