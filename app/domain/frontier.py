"""The reward-against-KL frontier of a sweep: which evaluations gain most reward for their distance from the reference."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class FrontierPoint(NamedTuple):
    """One evaluation of a variant's run: `kl` nats from the reference, `gain` more reward than it."""

    variant: int
    step: int
    kl: float
    gain: float


def find_front(points: Sequence[FrontierPoint]) -> set[FrontierPoint]:
    """Return the Pareto front: the points that no other beats in one of reward and KL without losing in the other.

    A KL is never negative; an estimate that is counts as 0.
    """
    front: set[FrontierPoint] = set()
    best = float("-inf")
    last: tuple[float, float] | None = None
    for point in sorted(points, key=lambda one: (max(0.0, one.kl), -one.gain)):
        place = (max(0.0, point.kl), point.gain)
        if point.gain > best or place == last:
            front.add(point)
            best, last = point.gain, place
    return front


def find_best(points: Sequence[FrontierPoint], kl_budget: float | None) -> FrontierPoint | None:
    """Return the variant that ends with the largest gain within the budget of KL (None: at any distance).

    Judged by each variant's last evaluation, which is of the model that its run leaves; of equal ones the nearest to the
    reference. A variant that took no step yet is the reference, and not judged.
    """
    return _largest(list_ends(points, kl_budget))


def find_earlier(points: Sequence[FrontierPoint], kl_budget: float | None) -> FrontierPoint | None:
    """Return an evaluation on the way, within the budget, that gained more than any variant ends with; None when there is
    none.
    """
    on_the_way = _largest(_within([point for point in points if point.step > 0], kl_budget))
    best = find_best(points, kl_budget)
    return on_the_way if on_the_way and (best is None or on_the_way.gain > best.gain) else None


def find_peers(
    points: Sequence[FrontierPoint], kl_budget: float | None, win_rates: Mapping[int, tuple[float, float]]
) -> list[int]:
    """Return the variants that the evaluations don't tell apart from the best: of the same gain, or with an overlapping interval.

    `win_rates`: the 95 % intervals of the last win rates, by variant.
    """
    best = find_best(points, kl_budget)
    return [
        end.variant
        for end in list_ends(points, kl_budget)
        if best and end.variant != best.variant and (end.gain == best.gain or _overlap(win_rates, end.variant, best.variant))
    ]


def list_ends(points: Sequence[FrontierPoint], kl_budget: float | None) -> list[FrontierPoint]:
    """Return the last evaluation of each variant that took a step, where it lies within the budget, by variant."""
    last = {point.variant: point for point in sorted(points, key=lambda one: (one.variant, one.step)) if point.step > 0}
    return _within(list(last.values()), kl_budget)


def _within(points: list[FrontierPoint], kl_budget: float | None) -> list[FrontierPoint]:
    return [point for point in points if kl_budget is None or point.kl <= kl_budget]


def _largest(points: list[FrontierPoint]) -> FrontierPoint | None:
    return max(points, key=lambda one: (one.gain, -one.kl), default=None)


def _overlap(intervals: Mapping[int, tuple[float, float]], one: int, other: int) -> bool:
    if one not in intervals or other not in intervals:
        return False
    (low, high), (other_low, other_high) = intervals[one], intervals[other]
    return low <= other_high and other_low <= high
