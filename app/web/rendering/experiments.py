"""What came of an experiment, for pages and REST: its settings with their intervals, and whether they are as expected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy.orm import Session

from app.domain.events import RecitalHeld
from app.domain.experiments.catalogue import EXPERIMENTS, Experiment, conclude
from app.domain.experiments.outcomes import BY_HEART, WAITING, Evidence, ExperimentOutcome, Recited, Setting
from app.domain.frontier import FrontierPoint, compare_rivals, group_by_seeds, list_ends, without_seeds
from app.domain.statistics.estimate import Estimate, estimate_over_seeds
from app.domain.statistics.paired import PairedComparison
from app.store import journal
from app.store.metrics import list_metrics
from app.store.results import VariantResult, list_losses
from app.store.tables import Sweep
from app.web.rendering.comparison import SweepComparison

MOST_ASKED = 4  # runs of a sweep, for a recital


@dataclass(frozen=True)
class ExperimentResult:
    """`is_over_seeds`: the intervals of the gains are over seeds, else over prompts. `recital`: what a run says to prompts that
    it was trained on, where that was asked; `course`: its loss, where that is judged.
    """

    experiment: Experiment
    outcome: ExperimentOutcome
    settings: list[Setting]
    is_over_seeds: bool
    recital: RecitalHeld | None = None
    course: "Course | None" = None


def judge(session: Session, sweep: Sweep, comparison: SweepComparison) -> ExperimentResult | None:
    """Return what is known of the sweep's experiment now; None for a sweep that is none."""
    experiment = EXPERIMENTS.get(sweep.request.get("experiment", ""))
    if experiment is None:
        return None
    changes = [result.changes for result in comparison.results]
    groups = [group for group in group_by_seeds(changes) if not changes[group[0]].keys().isdisjoint(experiment.paths)]
    losses, ends = list_losses(session, sweep.id), {end.variant: end for end in list_ends(comparison.points, None)}
    settings = [describe(experiment, [comparison.results[n] for n in group], losses, ends) for group in groups]
    has_ended = comparison.row.state.final

    def compare(first: int, second: int) -> PairedComparison | None:
        rivals = compare_rivals(groups[first], [groups[second]], comparison.rewards)
        return rivals[0].comparison if rivals else None

    recital = None if experiment.is_rewarded else find_recital(session, comparison)
    outcome = conclude(experiment, Evidence(settings, compare, count_recited(recital))) if has_ended else WAITING
    course = None if experiment.is_rewarded else draw_course(session, comparison)
    return ExperimentResult(experiment, outcome, settings, any(len(group) > 1 for group in groups), recital, course)


def count_recited(recital: RecitalHeld | None) -> Recited | None:
    if recital is None:
        return None
    others = [one.weight for one in recital.prompts if not one.is_same and one.weight is not None]
    return Recited(sum(one.is_same for one in recital.prompts), len(recital.prompts), max(others, default=None))


def find_recital(session: Session, comparison: SweepComparison) -> RecitalHeld | None:
    """Return the newest recital of the sweep's first run that the user may see and that has held one."""
    held = (journal.latest(session, run_id, "recital") for run_id in list_shown(comparison))
    entry = next((one for one in held if one is not None), None)
    return RecitalHeld.model_validate(entry.payload) if entry is not None else None


def list_shown(comparison: SweepComparison) -> list[str]:
    """Return the first runs that the user may see."""
    shown = [one.run.id for one in comparison.results if one.run is not None and one.run.id not in comparison.hidden]
    return shown[:MOST_ASKED]


def describe(
    experiment: Experiment, results: Sequence[VariantResult], losses: Mapping[str, tuple[float, float]],
    ends: Mapping[int, FrontierPoint],
) -> Setting:  # fmt: skip
    """`losses` by run, of its first and last steps; `ends` by variant, the evaluation of the model that its run leaves."""
    changes = without_seeds(results[0].changes)
    left = [ends[one.variant] for one in results if one.variant in ends]
    chosen = [point.gain for point in left] or [
        value for one in results if (value := one.metrics.get("eval/reward_gain")) is not None
    ]
    both = [losses[one.run.id] for one in results if one.run is not None and one.run.id in losses]
    return Setting(
        label=experiment.label(changes) or "the recipe",
        changes=changes,
        gain=estimate(results, "test/reward_gain"),
        chosen=fmean(chosen) if chosen else None,
        kl=estimate(results, "test/kl") or (estimate_over_seeds([point.kl for point in left]) if left else None),
        losses=(fmean(first for first, _ in both), fmean(last for _, last in both)) if both else None,
    )


def estimate(results: Sequence[VariantResult], key: str) -> Estimate | None:
    """Return a figure of the test prompts: its mean over seeds, or the one run's with its interval over prompts."""
    found = [(value, one.metrics) for one in results if (value := one.metrics.get(key)) is not None]
    if not found:
        return None
    if len(found) > 1:
        return estimate_over_seeds([value for value, _ in found])
    value, metrics = found[0]
    return Estimate(value, metrics.get(f"{key}_low"), metrics.get(f"{key}_high"))


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot, in its units: the estimate and the ends of its interval; None where there is none."""

    middle: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forest:
    """Gains beneath each other on one scale, from `low` to `high`; `zero`: where the reference lies."""

    width: int
    zero: float
    rows: list[Interval | None]
    low: float
    high: float


def draw_forest(settings: Sequence[Setting], width: int = 240, margin: int = 6) -> Forest | None:
    """Return the settings' gains as a forest plot; None before there is one."""
    gains = [setting.gain for setting in settings]
    ends = [end for gain in gains if gain for end in (gain.value, gain.low, gain.high) if end is not None]
    if not ends:
        return None
    low, high = min(0.0, *ends), max(0.0, *ends)
    scale = (width - 2 * margin) / ((high - low) or 1.0)

    def place(value: float | None) -> float | None:
        return None if value is None else round(margin + (value - low) * scale, 1)

    rows = [Interval(place(gain.value) or 0.0, place(gain.low), place(gain.high)) if gain else None for gain in gains]
    return Forest(width, place(0.0) or 0.0, rows, low, high)


@dataclass(frozen=True)
class Course:
    """A loss over the steps as an SVG polyline of 100 × 40, from 0 up to `high`; `bar`: where it is low enough."""

    points: str
    bar: float
    high: float
    steps: tuple[int, int]


def draw_course(session: Session, comparison: SweepComparison) -> Course | None:
    """Return the loss of the first run that the user may see and that has taken two steps; None without one."""
    for run_id in list_shown(comparison):
        points = [(step, value) for step, value in list_metrics(session, run_id, ["loss"])["loss"] if value is not None]
        if len(points) < 2:
            continue
        first, last, high = points[0][0], points[-1][0], max(value for _, value in points) or 1.0
        across = 100 / max(1, last - first)
        drawn = " ".join(f"{(step - first) * across:.2f},{39 - 38 * value / high:.2f}" for step, value in points)
        return Course(drawn, 39 - 38 * BY_HEART * points[0][1] / high, high, (first, last))
    return None
