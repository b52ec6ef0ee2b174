import math
import random
from itertools import combinations

import pytest

from app.domain.statistics.strengths import find_strengths


def plant(strengths, num_prompts, seed, ties=0.0):
    """Contests of every pair on every prompt, won by Bradley and Terry's chances."""
    chance, gains = random.Random(seed), {}
    for first, second in combinations(range(len(strengths)), 2):
        p = 1 / (1 + math.exp(strengths[second] - strengths[first]))
        gains[first, second] = {
            prompt: 0.0 if chance.random() < ties else 1.0 if chance.random() < p else -1.0 for prompt in range(num_prompts)
        }
    return gains


def test_planted_strengths_are_found_again() -> None:
    planted = [0.9, 0.2, -0.3, -0.8]
    found = find_strengths(4, plant(planted, 3000, seed=2))
    assert [one.value.value for one in found] == pytest.approx(planted, abs=0.08)
    assert sum(one.value.value for one in found) == pytest.approx(0, abs=1e-9)
    assert all(one.value.low <= truth <= one.value.high for one, truth in zip(found, planted, strict=True))
    assert [one.may_be_best for one in found] == [True, False, False, False]


def test_two_models_have_the_strengths_of_their_win_rate() -> None:
    gains = {(0, 1): {prompt: 1.0 if prompt < 75 else -1.0 for prompt in range(99)}}  # and half a win each of the prior tie
    first, second = find_strengths(2, gains)
    assert first.value.value == pytest.approx(math.log(75.5 / 24.5) / 2)
    assert second.value.value == -first.value.value
    assert (first.may_be_best, second.may_be_best) == (True, False)


def test_a_model_that_always_wins_has_a_finite_strength() -> None:
    gains = {pair: dict.fromkeys(range(50), 1.0) for pair in ((0, 1), (0, 2), (1, 2))}
    found = find_strengths(3, gains)
    assert all(math.isfinite(end) for one in found for end in one.value[:3])
    assert found[0].value.value > found[1].value.value > found[2].value.value
    assert found[0].chance.value > 0.9


def test_ties_and_missing_contests_are_told() -> None:
    alike = find_strengths(3, {(0, 1): {1: 0.0, 2: 0.0}, (1, 2): {1: 0.0}})
    assert [one.value.value for one in alike] == pytest.approx([0, 0, 0])
    assert all(one.may_be_best for one in alike)
    with pytest.raises(ValueError, match="never met"):
        find_strengths(4, {(0, 1): {1: 1.0}, (2, 3): {1: 1.0}})
    with pytest.raises(ValueError, match="two models"):
        find_strengths(1, {})


def test_equal_models_are_seldom_told_apart() -> None:
    apart = 0
    for seed in range(40):
        found = find_strengths(3, plant([0, 0, 0], 60, seed, ties=0.2), seed=seed)
        apart += not all(one.may_be_best for one in found)
    assert apart <= 4


def test_equal_seeds_give_equal_intervals() -> None:
    gains = plant([0.3, 0, -0.3], 40, seed=1)
    assert find_strengths(3, gains, seed=3) == find_strengths(3, gains, seed=3)
