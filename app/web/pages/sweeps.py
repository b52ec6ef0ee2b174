"""The list of sweeps and the page of one: its variants side by side, the frontier of reward against KL, what can be done."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.errors import InvalidInput
from app.domain.experiments.catalogue import name_variant
from app.domain.frontier import Cost, FrontierPoint, Rival, list_ends
from app.domain.run import RunState
from app.domain.statistics.paired import PairedComparison
from app.domain.sweep import name_of, parse_request, write_value
from app.domain.training.baselines import BASELINES
from app.services import sweeps as service
from app.store import results
from app.store import sweeps as store
from app.store.runs import RunRow, describe_runs
from app.store.sweeps import SweepRow
from app.store.tables import Sweep
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.rendering.comparison import SweepComparison, compare
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.experiments import ExperimentResult, Forest, draw_forest, judge
from app.web.rendering.format import exact
from app.web.rendering.histogram import Histogram, weights_of

router = APIRouter()

PAGE_SIZE = 30
MOST_HISTOGRAMS = 24
MOST_TOLD = 4  # combinations of a sweep
# No rule of the best beside a step that is named.
PLAIN_KEEPING = {"keep.model": "last", "keep.patience": "", "keep.kl_budget": "", "keep.stop_over_budget": "no"}
After = Annotated[str, Query(max_length=60)]
Budget = Annotated[str, Query(max_length=30)]


@dataclass(frozen=True, kw_only=True)
class SweepsPage(Context):
    template = "sweeps/list.html"

    rows: list[SweepRow]
    grids: dict[str, str]
    mine: bool
    after: str
    next_after: str
    moves: bool


@dataclass(frozen=True)
class FrontRow:
    """A point of the front, and where its model can be had."""

    label: str
    point: FrontierPoint
    address: str = ""
    act: str = ""


@dataclass(frozen=True, kw_only=True)
class LivePart(Context):
    """What moves while runs go on."""

    template = "sweeps/_live.html"

    row: SweepRow
    comparison: SweepComparison
    best_label: str
    rivals: list[tuple[str, PairedComparison]]
    earlier_label: str
    front: list[FrontRow]
    chart: dict[str, Any]
    result: ExperimentResult | None
    forest: Forest | None
    histograms: list[tuple[str, Histogram]]
    costs: list[tuple[str, Cost]]
    budget: str
    wanted: str  # the gain that was typed


@dataclass(frozen=True, kw_only=True)
class SweepPage(LivePart):
    template = "sweeps/sweep.html"

    recipe: dict[str, Any]
    names: RunRow | None  # of data set and models; None when no run is left
    grid: str
    baselines: dict[str, str]  # those that are not in it yet


@router.get("/sweeps")
def list_sweeps(request: Request, session: ReadSession, user: CurrentUser, mine: bool = False, after: After = "") -> HTMLResponse:
    found = store.list_sweeps(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    rows = found[:PAGE_SIZE]
    context = SweepsPage(
        rows=rows,
        grids={row.id: grid_of(row.request) for row in rows},
        mine=mine,
        after=after,
        next_after=rows[-1].id if len(found) > PAGE_SIZE else "",
        moves=any(not row.state.final for row in rows),
    )
    return render(request, context)


@router.get("/sweeps/{sweep_id}")
def show_sweep(
    request: Request, session: ReadSession, user: CurrentUser, sweep_id: str, kl: Budget = "", gain: Budget = ""
) -> HTMLResponse:
    sweep = store.get_sweep(session, user.id, sweep_id)
    parts = live_parts(session, sweep, user.id, kl, gain)
    runs = [variant.run for variant in parts["comparison"].results if variant.run is not None]
    there = {variant.changes.get("baseline") for variant in parts["comparison"].results}
    context = SweepPage(
        **parts,
        recipe=sweep.variants[0]["recipe"],
        names=describe_runs(session, user.id, runs[:1])[0] if runs else None,
        grid=grid_of(sweep.request),
        baselines={name: title for name, (title, _) in BASELINES.items() if name not in there},
    )
    return render(request, context)


@router.get("/sweeps/{sweep_id}/live")
def refresh_sweep(
    request: Request, session: ReadSession, user: CurrentUser, sweep_id: str, kl: Budget = "", gain: Budget = ""
) -> HTMLResponse:
    """The parts of the page that move, for it to take in."""
    sweep = store.get_sweep(session, user.id, sweep_id)
    return render(request, LivePart(**live_parts(session, sweep, user.id, kl, gain)))


def live_parts(session: ReadSession, sweep: Sweep, user_id: str, kl: str, gain: str) -> dict[str, Any]:
    comparison = compare(session, sweep, user_id, read_budget(kl), read_gain(gain))
    labels = [one.label for one in comparison.results]
    result = judge(session, sweep, comparison)
    front = [point for point in comparison.front if point.step > 0]  # before its first step each variant is the reference
    return {
        "row": comparison.row,
        "comparison": comparison,
        "best_label": label_best(comparison, labels),
        "rivals": [(name_rival(rival, comparison, labels), rival.comparison) for rival in comparison.rivals],
        "earlier_label": labels[comparison.earlier.variant] if comparison.earlier else "",
        "front": [lead_to_model(comparison, point) for point in sorted(front, key=lambda point: (point.kl, point.variant))],
        "chart": chart_of(comparison, labels),
        "result": result,
        "forest": draw_forest(result.settings) if result else None,
        "histograms": histograms_of(session, comparison),
        "costs": [(labels[cost.variant], cost) for cost in comparison.costs],
        "budget": kl.strip(),
        "wanted": gain.strip(),
    }


def lead_to_model(comparison: SweepComparison, point: FrontierPoint) -> FrontRow:
    """Return a point of the front with the way to its model: registered where a run has left it, else trained up to there again,
    from the scores that there are.
    """
    result = comparison.results[point.variant]
    if result.run is None:
        return FrontRow(result.label, point)
    if result.run.state == RunState.SUCCEEDED and point in list_ends(comparison.points, None):
        return FrontRow(result.label, point, f"/models/new?run={result.run.id}", "Register")
    asked = urlencode({"clone": result.run.id, "keep.step": point.step, **PLAIN_KEEPING})
    return FrontRow(result.label, point, f"/runs/new?{asked}", "Train to it")


def label_best(comparison: SweepComparison, labels: Sequence[str]) -> str:
    """Return the name of the best variant, or of the group of seeds that it stands for."""
    group = comparison.best_group
    return group.label if group else labels[comparison.best.variant] if comparison.best else ""


def name_rival(rival: Rival, comparison: SweepComparison, labels: Sequence[str]) -> str:
    group = next((group for group in comparison.seeds if rival.variants[0] in group.variants), None)
    return group.label if group else labels[rival.variants[0]]


def read_gain(text: str) -> float | None:
    """Return the reward gain that was typed; None without one. Raises InvalidInput."""
    value = _read_number(text)
    if value is not None and not math.isfinite(value):
        raise InvalidInput.at("gain", f"Type the reward gain as a number, not {text.strip()!r}.")
    return value


def _read_number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", ".").replace("−", "-")) if text.strip() else None
    except ValueError:
        return math.nan


def read_budget(text: str) -> float | None:
    """Return the budget of KL that was typed; None without one. Raises InvalidInput."""
    value = _read_number(text)
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InvalidInput.at("kl", f"Type the budget of KL as a number of nats, 0 or more, not {text.strip()!r}.")
    return value


def chart_of(comparison: SweepComparison, labels: Sequence[str]) -> dict[str, Any]:
    """Return what static/frontier.js draws: [variant, step, KL, reward gain, on the front], in digits enough for a picture."""
    points = [
        [point.variant, point.step, float(f"{point.kl:.5g}"), float(f"{point.gain:.5g}"), point in comparison.front]
        for point in comparison.points
    ]
    runs = [variant.run.id if variant.run else None for variant in comparison.results]
    return {"labels": list(labels), "runs": runs, "points": points, "budget": comparison.kl_budget}


def histograms_of(session: ReadSession, comparison: SweepComparison) -> list[tuple[str, Histogram]]:
    """Return the weights of each variant's newest step, all over the same bins."""
    shown = [variant for variant in comparison.results if variant.run is not None][:MOST_HISTOGRAMS]
    found = results.list_histograms(session, [variant.run.id for variant in shown if variant.run])
    mine = [(variant, found[variant.run.id]) for variant in shown if variant.run and variant.run.id in found]
    return [(variant.label, drawn) for (variant, _), drawn in zip(mine, weights_of([counts for _, counts in mine]), strict=True)]


def grid_of(request: dict[str, Any]) -> str:
    """Return what the sweep varies: `λ 0.1, 0.3 · batch_size 2, 8 · beside DPO`."""
    parts = [f"λ {', '.join(map(exact, request['lambda']))}"] if request["lambda"] else []
    experiment = request.get("experiment", "")
    parts += [write_field(experiment, path, values) for path, values in request["fields"].items()]
    if together := request.get("combinations"):
        told = [name_variant(experiment, one) for one in together[:MOST_TOLD]]
        parts.append(", ".join(told) + (" …" if len(together) > MOST_TOLD else ""))
    if request["baselines"]:
        parts.append(f"beside {', '.join(BASELINES[name][0] for name in request['baselines'])}")
    return " · ".join(parts)


def write_field(experiment: str, path: str, values: Sequence[Any]) -> str:
    """Return a setting with its values; where an experiment has words for them, these."""
    labels = [name_variant(experiment, {path: value}) for value in values]
    if labels != [name_variant("", {path: value}) for value in values]:
        return ", ".join(labels)
    return f"{name_of(path)} {', '.join(write_value(path, value) for value in values)}".strip()


@router.post("/sweeps/{sweep_id}/variants")
def add_variants(
    session: WriteSession,
    user: CurrentUser,
    sweep_id: str,
    temperatures: Annotated[str, Form(alias="lambda", max_length=400)] = "",
    baseline: Annotated[tuple[str, ...], Form(max_length=len(BASELINES))] = (),
) -> Response:
    """More temperatures and baselines, as they were typed and ticked."""
    typed = [part for part in re.split(r"[,;\s]+", temperatures) if part]
    if not typed and not baseline:
        raise InvalidInput.at("lambda", "Type a temperature or choose a baseline to add.")
    asked = parse_request({"recipe": {}, "lambda": typed, "baselines": baseline})
    service.add_variants(session, user.id, sweep_id, lambdas=asked.lambdas, baselines=asked.baselines)
    return back_to(sweep_id)


@router.post("/sweeps/{sweep_id}/stop")
def stop_sweep(session: WriteSession, user: CurrentUser, sweep_id: str) -> Response:
    service.stop(session, user.id, sweep_id)
    return back_to(sweep_id)


@router.post("/sweeps/{sweep_id}/resume")
def resume_sweep(session: WriteSession, user: CurrentUser, sweep_id: str) -> Response:
    service.resume(session, user.id, sweep_id)
    return back_to(sweep_id)


@router.post("/sweeps/{sweep_id}/delete")
def delete_sweep(request: Request, session: WriteSession, user: CurrentUser, files: CurrentFiles, sweep_id: str) -> Response:
    service.delete(session, files, user.id, sweep_id)
    return go_to(request, "/sweeps")


def back_to(sweep_id: str) -> Response:
    return RedirectResponse(f"/sweeps/{sweep_id}", status_code=303)
