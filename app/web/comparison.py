"""A sweep's runs side by side: results, frontier, and the best within a budget of KL. The same for pages and REST."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain.frontier import FrontierPoint, find_best, find_front
from app.store.results import VariantResult, list_points, list_results
from app.store.sweeps import SweepRow, describe_sweep
from app.store.tables import Sweep


@dataclass(frozen=True)
class Comparison:
    row: SweepRow
    results: list[VariantResult]
    points: list[FrontierPoint]
    front: set[FrontierPoint]
    best: FrontierPoint | None
    kl_budget: float | None


def compare(session: Session, sweep: Sweep, kl_budget: float | None) -> Comparison:
    """Everything that is known of the sweep's variants now."""
    points = list_points(session, sweep.id)
    return Comparison(
        row=describe_sweep(session, sweep),
        results=list_results(session, sweep),
        points=points,
        front=find_front(points),
        best=find_best([point for point in points if point.step > 0], kl_budget),  # at step 0 all are the reference
        kl_budget=kl_budget,
    )
