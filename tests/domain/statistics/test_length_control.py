import math
import random

import pytest

from app.domain.statistics.length_control import length_controlled_win_rate
from app.domain.statistics.paired import win_rate


def judge_by_length(num: int, skill: float, seed: int) -> tuple[list[float], list[float], list[float], list[float]]:
    """Rewards and lengths where the longer answer is liked more, and the first model writes longer ones."""
    chance = random.Random(seed)
    rewards, lengths = [], []
    for _ in range(num):
        longer = chance.gauss(30, 30)
        won = chance.random() < 1 / (1 + math.exp(-(skill + 2 * math.tanh(longer / 30))))
        rewards.append(float(won))
        lengths.append(100 + longer)
    return rewards, [0.5] * num, lengths, [100.0] * num


def test_a_model_that_is_only_longer_wins_plainly_and_not_at_equal_length() -> None:
    rewards, others, lengths, other_lengths = judge_by_length(600, 0.0, 2)
    plain = win_rate(rewards, others)
    controlled = length_controlled_win_rate(rewards, others, lengths, other_lengths)
    assert plain.low > 0.65
    assert controlled.low < 0.5 < controlled.high
    assert controlled.value == pytest.approx(0.5, abs=0.08)


def test_a_better_model_wins_at_equal_length_too() -> None:
    found = length_controlled_win_rate(*judge_by_length(600, 1.0, 3))
    assert found.value == pytest.approx(1 / (1 + math.exp(-1)), abs=0.08)
    assert found.low > 0.5


def test_turned_round_it_is_one_minus_itself() -> None:
    rewards, others, lengths, other_lengths = judge_by_length(80, 0.4, 4)
    there = length_controlled_win_rate(rewards, others, lengths, other_lengths)
    back = length_controlled_win_rate(others, rewards, other_lengths, lengths)
    assert back.value == pytest.approx(1 - there.value)


def test_answers_of_equal_length_have_the_plain_win_rate() -> None:
    rewards, others = [1.0, 0.0, 2.0, 2.0] * 5, [0.0, 1.0, 1.0, 2.0] * 5
    assert length_controlled_win_rate(rewards, others, [7] * 20, [7] * 20) == win_rate(rewards, others)


@pytest.mark.parametrize("num", [1, 2, 5, 40])
@pytest.mark.parametrize("reward", [1.0, 0.0, 0.5])
def test_where_all_is_won_lost_or_tied_it_stays_within_bounds(num: int, reward: float) -> None:
    found = length_controlled_win_rate([reward] * num, [0.5] * num, range(num), [3] * num)
    assert 0 <= found.value <= 1
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01


def test_equal_seeds_give_equal_intervals() -> None:
    data = judge_by_length(50, 0.3, 5)
    assert length_controlled_win_rate(*data, seed=1) == length_controlled_win_rate(*data, seed=1)
    assert length_controlled_win_rate(*data, seed=1) != length_controlled_win_rate(*data, seed=2)


def test_lists_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths"):
        length_controlled_win_rate([1.0, 2.0], [0.0, 1.0], [3.0], [4.0])
