import itertools
import random

from app.domain.frontier import FrontierPoint, find_best, find_earlier, find_front, find_peers


def beats(one: FrontierPoint, other: FrontierPoint) -> bool:
    return one.kl <= other.kl and one.gain >= other.gain and (one.kl, one.gain) != (other.kl, other.gain)


def test_the_front_is_what_no_other_point_beats() -> None:
    chance = random.Random(3)
    for _ in range(50):
        points = [FrontierPoint(n % 3, n, chance.randrange(9) / 2, chance.randrange(9) / 4) for n in range(30)]
        assert find_front(points) == {one for one in points if not any(beats(other, one) for other in points)}
    assert find_front([]) == set()


def test_points_in_the_same_place_are_all_on_the_front() -> None:
    twins = [FrontierPoint(0, 5, 1.0, 2.0), FrontierPoint(1, 5, 1.0, 2.0)]
    assert find_front([*twins, FrontierPoint(2, 5, 1.0, 1.0)]) == set(twins)


def test_an_estimate_below_zero_is_no_nearer_than_the_reference() -> None:
    reference = FrontierPoint(0, 0, 0.0, 0.0)
    assert find_front([reference, FrontierPoint(0, 5, -0.01, -0.5)]) == {reference}
    assert find_front([reference, FrontierPoint(0, 5, -0.01, 0.5)]) == {FrontierPoint(0, 5, -0.01, 0.5)}


def test_the_best_gains_most_within_the_budget() -> None:
    points = [FrontierPoint(0, 10, 0.5, 1.0), FrontierPoint(1, 10, 2.0, 3.0), FrontierPoint(2, 10, 1.0, 1.0)]
    assert find_best(points, None) == points[1]
    assert find_best(points, 1.0) == points[0]  # as good as the third, and nearer
    assert find_best(points, 0.1) is None
    for order in itertools.permutations(points):
        assert find_best(order, 1.5) == points[0]


def test_a_variant_is_judged_by_its_last_evaluation() -> None:
    peak, end, other = FrontierPoint(0, 8, 0.5, 1.7), FrontierPoint(0, 12, 0.9, -1.1), FrontierPoint(1, 12, 0.4, 0.3)
    points = [FrontierPoint(0, 0, 0.0, 0.0), peak, end, FrontierPoint(1, 0, 0.0, 0.0), other]
    assert find_best(points, None) == other
    assert find_earlier(points, None) == peak
    assert find_earlier([*points, FrontierPoint(2, 12, 2.0, 2.0)], None) is None
    assert find_best(points[:3], 0.6) is None  # what it ends with lies outside
    assert find_earlier(points[:3], 0.6) == peak
    assert find_best([points[0]], None) is find_earlier([points[0]], None) is None  # no step taken: the reference itself


def test_variants_whose_win_rates_overlap_are_not_told_apart() -> None:
    points = [
        FrontierPoint(0, 9, 0.5, 1.0),
        FrontierPoint(1, 9, 0.5, 0.9),
        FrontierPoint(2, 9, 5.0, 0.8),
        FrontierPoint(3, 9, 1.0, 1.0),
    ]
    rates = {0: (0.5, 0.7), 1: (0.6, 0.9), 2: (0.4, 0.6)}
    assert find_peers(points, None, rates) == [1, 2, 3]  # the last by its gain, which is the same
    assert find_peers(points, 1.0, rates) == [1, 3]
    assert find_peers(points, None, {**rates, 1: (0.8, 0.9)}) == [2, 3]
    assert find_peers([], None, rates) == []
