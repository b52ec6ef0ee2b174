import itertools
import random

from app.domain.frontier import FrontierPoint, find_best, find_front


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
