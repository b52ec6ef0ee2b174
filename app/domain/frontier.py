"""The reward-against-KL frontier of a sweep: which evaluations gain most reward for their distance from the reference."""

from collections.abc import Sequence
from typing import NamedTuple


class FrontierPoint(NamedTuple):
    """One evaluation of a variant's run: `kl` nats from the reference, `gain` more reward than it."""

    variant: int
    step: int
    kl: float
    gain: float


def find_front(points: Sequence[FrontierPoint]) -> set[FrontierPoint]:
    """The Pareto front: the points that no other beats in one of reward and KL without losing in the other.

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
    """The largest gain within the budget of KL (None: at any distance); of equal ones the nearest to the reference."""
    within = [point for point in points if kl_budget is None or point.kl <= kl_budget]
    return max(within, key=lambda one: (one.gain, -one.kl), default=None)
