import random

import pytest
from scipy.stats import spearmanr

from app.domain.statistics.association import spearman


def test_ranks_decide_and_ties_share_theirs() -> None:
    first, second = [1, 2, 2, 4, 9, 7], [1, 8, 3, 4, 900, 5]
    assert spearman(first, second).value == pytest.approx(spearmanr(first, second).statistic)
    assert spearman([1, 2, 3, 4], [10, 20, 30, 4000]).value == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]).value == pytest.approx(-1)


def test_nothing_is_told_of_few_or_of_equal_figures() -> None:
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    with pytest.raises(ValueError, match="as many"):
        spearman([1, 2], [1])


def test_the_interval_covers_what_was_planted() -> None:
    chance, covered = random.Random(3), 0
    for _ in range(200):
        first = [chance.gauss(0, 1) for _ in range(60)]
        found = spearman(first, [0.8 * one + 0.6 * chance.gauss(0, 1) for one in first])
        covered += found.low <= 0.7855 <= found.high  # 6/π · asin(0.8/2)
    assert 182 <= covered <= 200
