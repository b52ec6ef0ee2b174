"""A sweep's runs side by side: results, frontier, and the best within a budget of KL. The same for pages and REST."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from sqlalchemy.orm import Session

from app.domain.experiments.catalogue import name_variant
from app.domain.frontier import (
    Cost,
    FrontierPoint,
    Rival,
    compare_rivals,
    find_best,
    find_earlier,
    find_front,
    find_reached,
    group_by_seeds,
    list_ends,
    propose_gain,
    without_seeds,
)
from app.domain.sweep import label_among
from app.store.results import VariantResult, list_costs, list_final_rewards, list_points, list_results
from app.store.sweeps import SweepRow, describe_sweep, list_hidden
from app.store.tables import Sweep


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds: mean and standard deviation of those that have it."""

    mean: float
    deviation: float
    num: int


@dataclass(frozen=True)
class SeedGroup:
    """Variants that differ in seeds only: their last evaluations and final figures; None where fewer than two have them."""

    label: str
    variants: list[int]
    gain: Spread | None
    kl: Spread | None
    test_gain: Spread | None
    test_win_rate: Spread | None

    @property
    def over(self) -> str:
        """Over how many of its seeds the gain is taken, as an end of a sentence."""
        num = len(self.variants)
        if self.gain is None:
            return f"with one of its {num} seeds so far"
        return f"on average over {num if self.gain.num == num else f'{self.gain.num} of its {num}'} seeds"


@dataclass(frozen=True)
class SweepComparison:
    """`best` is chosen by the validation prompts' last evaluations; what the test prompts say of it has chosen nothing."""

    row: SweepRow
    results: list[VariantResult]
    points: list[FrontierPoint]
    front: set[FrontierPoint]
    best: FrontierPoint | None
    rivals: list[Rival]  # the best against each of the others, on the test prompts
    earlier: FrontierPoint | None  # on the way, with a larger gain than any variant ends with
    kl_budget: float | None
    seeds: list[SeedGroup]  # where several seeds were run
    hidden: set[str]  # runs that are private to others, and count for nothing here
    rewards: Mapping[int, Mapping[int, float]]  # list_final_rewards, where something is compared by them
    target: float | None  # a gain, and what it took each variant to get there
    costs: list[Cost]

    @property
    def num_private(self) -> int:
        """How many variants' runs are private to others, and count for nothing here."""
        return sum(result.private for result in self.results)

    @property
    def peers(self) -> list[int]:
        """Variants that the test prompts don't tell apart from the best."""
        return sorted(variant for rival in self.rivals if not rival.comparison.told_apart for variant in rival.variants)

    @property
    def best_group(self) -> SeedGroup | None:
        return next((group for group in self.seeds if self.best and self.best.variant in group.variants), None)

    @property
    def chosen_gain(self) -> float | None:
        """The gain by which the best was chosen: of validation, over its seeds where it has several."""
        group = self.best_group
        return group.gain.mean if group and group.gain else self.best.gain if self.best else None

    @property
    def test_gain(self) -> float | None:
        """The gain of the best on the test prompts."""
        group = self.best_group
        if group is not None:
            return group.test_gain.mean if group.test_gain else None
        return self.results[self.best.variant].metrics.get("test/reward_gain") if self.best else None


def compare(
    session: Session, sweep: Sweep, user_id: str, kl_budget: float | None, target: float | None = None
) -> SweepComparison:
    """Everything that the user may know of the sweep's variants now. `target`: the gain that costs are compared at; None: as
    proposed.
    """
    hidden = list_hidden(session, user_id, sweep.id)
    points, results = list_points(session, sweep.id, hidden), name_results(sweep, list_results(session, sweep, hidden))
    groups = group_by_seeds([result.changes for result in results])
    best = find_best(points, kl_budget, groups)
    row = describe_sweep(session, user_id, sweep)
    is_judged = row.state.final and sweep.request.get("experiment", "") != ""
    rewards = list_final_rewards(session, sweep.id, hidden) if best or is_judged else {}
    target = propose_gain(points) if target is None else target
    reached = find_reached(points, target) if target is not None else {}
    there = [result.variant for result in results if result.run is not None]
    return SweepComparison(
        row=row,
        results=results,
        points=points,
        front=find_front(points),
        best=best,
        rivals=_find_rivals(sweep, points, groups, best, kl_budget, rewards),
        earlier=find_earlier(points, kl_budget),
        kl_budget=kl_budget,
        hidden=hidden,
        rewards=rewards,
        target=target,
        costs=list_costs(session, sweep.id, reached, there) if target is not None else [],
        seeds=[_describe_seeds(sweep, group, results, points) for group in groups if len(group) > 1],
    )


def name_results(sweep: Sweep, results: Sequence[VariantResult]) -> list[VariantResult]:
    """Return the results by the words of the sweep's experiment, where it is one and has any for them."""
    experiment = sweep.request.get("experiment", "")
    return [replace(one, label=name_variant(experiment, one.changes) or one.label) if experiment else one for one in results]


def _find_rivals(
    sweep: Sweep, points: Sequence[FrontierPoint], groups: Sequence[Sequence[int]], best: FrontierPoint | None,
    kl_budget: float | None, rewards: Mapping[int, Mapping[int, float]],
) -> list[Rival]:  # fmt: skip
    if best is None:
        return []
    within = {end.variant for end in list_ends(points, kl_budget)}
    judge = _judge_of(sweep, best.variant)
    mine = next(group for group in groups if best.variant in group)
    comparable = [[v for v in group if v in within and _judge_of(sweep, v) == judge] for group in groups if group is not mine]
    return compare_rivals(mine, [group for group in comparable if group], rewards)


def _judge_of(sweep: Sweep, variant: int) -> object:
    """Return what gives the rewards of a variant's final answers: only those of one judge can be compared."""
    reward = sweep.variants[variant]["recipe"].get("reward", {})
    return [reward.get("judge") or [reward.get("model"), reward.get("revision")], reward.get("dtype")]


def name_group(sweep: Sweep, changes: dict[str, Any]) -> str:
    """Return what variants that differ in seeds only are called among the others."""
    if experiment := sweep.request.get("experiment", ""):
        return name_variant(experiment, changes)
    own = sweep.request.get("recipe", {}).get("method", "var")
    return label_among(sweep.request.get("combinations", ()), own, changes)


def _describe_seeds(
    sweep: Sweep, variants: list[int], results: Sequence[VariantResult], points: Sequence[FrontierPoint]
) -> SeedGroup:
    ends = [end for end in list_ends(points, None) if end.variant in variants]
    metrics = [results[variant].metrics for variant in variants]
    return SeedGroup(
        label=name_group(sweep, without_seeds(results[variants[0]].changes)) or "the recipe",
        variants=variants,
        gain=_spread([end.gain for end in ends]),
        kl=_spread([end.kl for end in ends]),
        test_gain=_spread([one.get("test/reward_gain") for one in metrics]),
        test_win_rate=_spread([one.get("test/win_rate") for one in metrics]),
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(fmean(known), stdev(known), len(known)) if len(known) > 1 else None
