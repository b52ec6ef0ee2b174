"""The reward-against-KL frontier of a sweep: which evaluations gain most reward for their distance from the reference."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import Any, NamedTuple

from app.domain.statistics.paired import PairedComparison, compare_paired

SEEDS = ("seed", "prompt_seed", "draw_seed")


class FrontierPoint(NamedTuple):
    """One evaluation of a variant's run: `kl` nats from the reference, `gain` more reward than it.

    `is_kept`: the run's model is this one, whatever came after it.
    """

    variant: int
    step: int
    kl: float
    gain: float
    is_kept: bool = False


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


def find_best(
    points: Sequence[FrontierPoint], kl_budget: float | None, groups: Sequence[Sequence[int]] | None = None
) -> FrontierPoint | None:
    """Return where the variant ends that gains most within the budget of KL (None: at any distance).

    Judged by each variant's evaluation of the model that its run leaves, which is the last unless another is kept; of equal
    ones the nearest to the reference. A variant that took no step yet is the reference, and not judged. `groups`: variants that
    differ in seeds only are judged by their means, and the one in their middle stands for them.
    """
    ends = {end.variant: end for end in list_ends(points, None)}
    judged = []
    for members in groups or [[variant] for variant in ends]:
        there = sorted((ends[variant] for variant in members if variant in ends), key=lambda end: end.gain)
        kl = fmean(end.kl for end in there) if there else math.inf
        if there and (kl_budget is None or kl <= kl_budget):
            judged.append((fmean(end.gain for end in there), -kl, there[(len(there) - 1) // 2]))
    return max(judged, key=lambda one: one[:2])[2] if judged else None


def find_earlier(points: Sequence[FrontierPoint], kl_budget: float | None) -> FrontierPoint | None:
    """Return an evaluation on the way, within the budget, that gained more than any variant ends with; None when there is
    none.
    """
    on_the_way = _largest(_within([point for point in points if point.step > 0], kl_budget))
    best = find_best(points, kl_budget)
    return on_the_way if on_the_way and (best is None or on_the_way.gain > best.gain) else None


def list_ends(points: Sequence[FrontierPoint], kl_budget: float | None) -> list[FrontierPoint]:
    """Return the evaluation of each variant's model, where it took a step and that lies within the budget, by variant."""
    in_turn = sorted(points, key=lambda one: (one.variant, one.is_kept, one.step))
    last = {point.variant: point for point in in_turn if point.step > 0}
    return _within(list(last.values()), kl_budget)


def _within(points: list[FrontierPoint], kl_budget: float | None) -> list[FrontierPoint]:
    return [point for point in points if kl_budget is None or point.kl <= kl_budget]


def _largest(points: list[FrontierPoint]) -> FrontierPoint | None:
    return max(points, key=lambda one: (one.gain, -one.kl), default=None)


class Cost(NamedTuple):
    """What it took a variant to an evaluation with a wanted gain; all but the variant None where it never got there."""

    variant: int
    step: int | None = None
    tokens: float | None = None
    seconds: float | None = None


def propose_gain(points: Sequence[FrontierPoint]) -> float | None:
    """Return a gain to compare costs at: nine tenths of what the second best variant reaches; None where nothing is gained."""
    most: dict[int, float] = {}
    for point in points:
        most[point.variant] = max(point.gain, most.get(point.variant, 0.0))
    reached = sorted((gain for gain in most.values() if gain > 0), reverse=True)[:2]
    return float(f"{0.9 * reached[-1]:.2g}") if reached else None


def find_reached(points: Sequence[FrontierPoint], gain: float) -> dict[int, int]:
    """Return the step of each variant's first evaluation that gains so much, of those that do."""
    steps = sorted((point.step, point.variant) for point in points if point.step > 0 and point.gain >= gain)
    return {variant: step for step, variant in reversed(steps)}


def without_seeds(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a variant that are no seeds."""
    return {path: value for path, value in changes.items() if path.rsplit(".", 1)[-1] not in SEEDS}


def group_by_seeds(changes: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Return the numbers of the variants in groups that differ in seeds only, from their changes."""
    groups: dict[str, list[int]] = {}
    for number, change in enumerate(changes):
        groups.setdefault(json.dumps(without_seeds(change), sort_keys=True), []).append(number)
    return list(groups.values())


class Rival(NamedTuple):
    """What the test prompts say of the best variant against others, which differ among themselves in seeds only."""

    variants: tuple[int, ...]
    comparison: PairedComparison  # of the best, by its policy's rewards, against them


def compare_rivals(
    best: Sequence[int], others: Sequence[Sequence[int]], rewards: Mapping[int, Mapping[int, float]]
) -> list[Rival]:
    """Return how the best compares with each of the others, where there are test prompts that both have answered.

    `rewards`: of each variant's final answers, by example. Where several seeds answered a prompt, their mean counts.
    """
    own = _mean_by_example([rewards[variant] for variant in best if variant in rewards])
    rivals = []
    for members in others:
        theirs = _mean_by_example([rewards[variant] for variant in members if variant in rewards])
        shared = sorted(own.keys() & theirs.keys())
        if shared:
            pairs = tuple(own[one] for one in shared), tuple(theirs[one] for one in shared)
            rivals.append(Rival(tuple(members), _compare_once(*pairs)))
    return rivals


def _mean_by_example(answered: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean reward of the examples that all have answered."""
    shared = set.intersection(*(set(one) for one in answered)) if answered else set()
    return {example: fmean(one[example] for one in answered) for example in shared}


@lru_cache(maxsize=1024)
def _compare_once(first: tuple[float, ...], second: tuple[float, ...]) -> PairedComparison:
    """Compare, and remember it: a page that is looked at asks again every few seconds."""
    return compare_paired(first, second)
