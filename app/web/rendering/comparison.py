"""A sweep's runs side by side: results, frontier, and the best within a budget of KL. The same for pages and REST."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain.frontier import FrontierPoint, find_best, find_earlier, find_front, find_peers
from app.store.results import VariantResult, list_points, list_results
from app.store.sweeps import SweepRow, describe_sweep
from app.store.tables import Sweep


@dataclass(frozen=True)
class Comparison:
    row: SweepRow
    results: list[VariantResult]
    points: list[FrontierPoint]
    front: set[FrontierPoint]
    best: FrontierPoint | None  # by the last evaluations
    peers: list[int]  # variants that aren't told apart from the best
    earlier: FrontierPoint | None  # on the way, with a larger gain than any variant ends with
    kl_budget: float | None


def compare(session: Session, sweep: Sweep, kl_budget: float | None) -> Comparison:
    """Everything that is known of the sweep's variants now."""
    points, results = list_points(session, sweep.id), list_results(session, sweep)
    return Comparison(
        row=describe_sweep(session, sweep),
        results=results,
        points=points,
        front=find_front(points),
        best=find_best(points, kl_budget),
        peers=find_peers(points, kl_budget, win_rates_of(results)),
        earlier=find_earlier(points, kl_budget),
        kl_budget=kl_budget,
    )


def win_rates_of(results: list[VariantResult]) -> dict[int, tuple[float, float]]:
    """Return the interval of each variant's last win rate, where there is one."""
    bounds = {
        result.variant: (result.metrics.get("eval/win_rate_low"), result.metrics.get("eval/win_rate_high")) for result in results
    }
    return {variant: (low, high) for variant, (low, high) in bounds.items() if low is not None and high is not None}
