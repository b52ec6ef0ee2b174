import itertools
import random

import pytest

from app.domain.frontier import (
    FrontierPoint,
    compare_rivals,
    find_best,
    find_earlier,
    find_front,
    find_reached,
    group_by_seeds,
    propose_gain,
    without_seeds,
)


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


def test_variants_of_several_seeds_are_judged_by_their_means_and_the_middle_one_stands_for_them() -> None:
    gains = {0: 0.9, 1: 1.0, 2: 1.1, 3: 5.0, 4: -3.5}  # the luckiest seed is of the other group
    points = [FrontierPoint(variant, 9, 1.0 + variant, gain) for variant, gain in gains.items()]
    groups = [[0, 1, 2], [3, 4]]
    assert find_best(points, None) == points[3]
    assert find_best(points, None, groups) == points[1]
    assert find_best(points, 2.0, groups) == points[1]  # the mean lies within
    assert find_best(points, 1.9, groups) is None
    assert find_best(points[2:], None, groups) == points[2]  # of what there is


def answers(seed: int, shift: float, noise: float) -> dict[int, float]:
    """Rewards of the answers to 32 prompts that differ more in hardness than the models do in skill."""
    chance = random.Random(seed)
    return {100 + k: 4 * (k % 8) + shift + chance.gauss(0, noise) for k in range(32)}


def test_the_test_prompts_tell_the_best_apart_pair_by_pair() -> None:
    rewards = {0: answers(1, 0.5, 0.3), 1: answers(2, 0.0, 0.3), 2: answers(3, 0.5, 0.3), 3: {1: 0.0}}
    better, alike = compare_rivals([0], [[1], [2], [3], [4]], rewards)  # without a shared prompt nothing is said
    assert (better.variants, better.comparison.told_apart, better.comparison.num_prompts) == ((1,), True, 32)
    assert better.comparison.gain.value == pytest.approx(0.5, abs=0.25)
    assert (alike.variants, alike.comparison.told_apart) == ((2,), False)
    assert alike.comparison.needed_prompts is None or alike.comparison.needed_prompts > 32


def test_several_seeds_are_compared_by_their_mean_on_each_prompt() -> None:
    rewards = {0: {1: 1.0, 2: 3.0, 3: 9.0}, 1: {1: 3.0, 2: 5.0}, 2: {1: 1.0, 2: 2.0, 4: 0.0}}
    (rival,) = compare_rivals([0, 1], [[2, 7]], rewards)
    assert (rival.variants, rival.comparison.num_prompts, rival.comparison.gain.value) == ((2, 7), 2, 1.5)
    assert compare_rivals([7], [[2]], rewards) == []


def test_variants_that_differ_in_seeds_only_are_one_group() -> None:
    seeds, lambdas = ({"training.seed": 0}, {"training.seed": 1}), ({"weights.lambda": 1.0}, {"weights.lambda": 3.0})
    changes = [{**one, **seed} for one in lambdas for seed in seeds] + [{"baseline": "dpo"}]
    assert group_by_seeds(changes) == [[0, 1], [2, 3], [4]]
    assert [without_seeds(change) for change in changes[:2]] == [{"weights.lambda": 1.0}] * 2
    assert group_by_seeds([{"evaluation.draw_seed": 1}, {"evaluation.prompt_seed": 3, "noise.seed": 3}]) == [[0, 1]]


def test_a_variant_is_judged_by_the_model_that_its_run_has_kept() -> None:
    kept = [FrontierPoint(0, 10, 1.0, 5.0, is_kept=True), FrontierPoint(0, 20, 4.0, 1.0), FrontierPoint(1, 20, 1.0, 2.0)]
    assert find_best(kept, None) == kept[0]
    assert find_best(kept, 2.0) == kept[0]
    assert find_earlier(kept, None) is None


def test_a_gain_is_reached_at_the_first_evaluation_that_has_it() -> None:
    points = [
        FrontierPoint(0, 0, 0, 9.0),
        FrontierPoint(0, 20, 1, 2.0),
        FrontierPoint(0, 10, 1, 1.5),
        FrontierPoint(1, 10, 1, 1.0),
    ]
    assert find_reached(points, 1.5) == {0: 10}
    assert find_reached(points, 1.0) == {0: 10, 1: 10}
    assert find_reached(points, 5.0) == {}


def test_costs_are_compared_at_nine_tenths_of_what_two_variants_reach() -> None:
    points = [FrontierPoint(0, 10, 1, 2.0), FrontierPoint(1, 10, 1, 1.0), FrontierPoint(2, 10, 1, -1.0)]
    assert propose_gain(points) == 0.9
    assert propose_gain(points[:1]) == 1.8
    assert propose_gain(points[2:]) is None
