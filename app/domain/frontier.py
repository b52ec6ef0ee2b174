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
    """The Pareto front: the points that no other beats in one of reward and KL without losing in the other."""
    front: set[FrontierPoint] = set()
    best = float("-inf")
    last: FrontierPoint | None = None
    for point in sorted(points, key=lambda one: (one.kl, -one.gain)):
        is_tie = last is not None and (point.kl, point.gain) == (last.kl, last.gain)
        if point.gain > best or is_tie:
            front.add(point)
            best, last = point.gain, point
    return front


def find_best(points: Sequence[FrontierPoint], kl_budget: float | None) -> FrontierPoint | None:
    """The largest gain within the budget of KL (None: at any distance); of equal ones the nearest to the reference."""
    within = [point for point in points if kl_budget is None or point.kl <= kl_budget]
    return max(within, key=lambda one: (one.gain, -one.kl), default=None)
