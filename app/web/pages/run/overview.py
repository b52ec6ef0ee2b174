"""The page of one run."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.events import StateChanged
from app.domain.metrics import WEIGHT_EDGES
from app.domain.recipe import Method
from app.domain.run import RunKind
from app.store import journal, metrics, runs
from app.store import runs as store
from app.store.runs import RunRow
from app.store.sharing import may_change
from app.store.tables import Attempt, Dataset, JournalEntry, Run
from app.web.dependencies import CurrentUser, ReadSession
from app.web.pages.run.charts import Chart, keys
from app.web.pages.run.layout import TILES, Section, Tile
from app.web.pages.run.result import RunResult, result_of
from app.web.pages.run.status import RunStatus, method_of, shown_charts, shown_leading, shown_sections, standing_of
from app.web.pages.run.steering import Steering, steering_of
from app.web.pages.run.stream import Shown, show
from app.web.pages.run.tabs import Tab, choose, tabs_of
from app.web.rendering.environment import Context, render

router = APIRouter()

LOG_LINES = 300
LOG_KINDS = ("state", "log", "resume", "checkpoint", "kept", "recital", "scoring", "memory", "outcome")
POINTS = 600
STEPS_IN_PAGE = 2000  # the charts of longer runs fetch their series after the first paint


@dataclass(frozen=True, kw_only=True)
class RunPage(Context):
    template = "runs/run.html"

    run: Run
    row: RunRow
    dataset: Dataset | None
    recipe: dict[str, Any]
    method: Method
    state: Shown
    standing: RunStatus
    steering: Steering
    result: RunResult
    tabs: list[Tab]
    tab: str
    findings: list[Shown]
    log: list[Shown]
    artifacts: list[Shown]
    sample_steps: list[int]
    sample_step: int | None
    samples: list[Shown]
    attempts: list[Attempt]
    sections: tuple[Section, ...]
    leading: tuple[Chart, ...]
    num_points: dict[str, int]
    tiles: tuple[Tile, ...]
    values: dict[str, float | None]
    memory: Shown | None
    final: Shown | None
    data: dict[str, Any]


@router.get("/runs/{run_id}", response_class=HTMLResponse)
def show_run(
    request: Request, session: ReadSession, user: CurrentUser, run_id: str, tab: str = "", sample_step: int | None = None
) -> Response:
    run = store.get_run(session, user.id, run_id)
    if run.answers_id is not None:  # their page shows the run as well
        return RedirectResponse(f"/answers/{run.answers_id}", status_code=303)
    steps = journal.list_sample_steps(session, run_id)
    chosen = sample_step if sample_step in steps else steps[-1] if steps else None
    method = method_of(run)
    tabs = tabs_of(run.kind, method)
    step, evaluation, memory, final = (
        journal.latest(session, run_id, kind) for kind in ("step", "evaluation", "memory", "final")
    )
    data = chart_data(session, run)
    context = RunPage(
        run=run,
        row=runs.describe_runs(session, user.id, [run])[0],
        dataset=session.get(Dataset, run.dataset_id),
        recipe=run.recipe,
        method=method,
        state=Shown.of(StateChanged(**state_of(run)), run, may_change=may_change(session, user.id, run)),
        standing=standing_of(session, user.id, run),
        steering=steering_of(session, run),
        result=result_of(session, run),
        tabs=tabs,
        tab=choose(tabs, tab or ("samples" if sample_step is not None else "")),
        findings=list_shown(session, run_id, "finding"),
        log=recent_log(session, run_id),
        artifacts=newest_artifacts(session, run_id),
        sample_steps=steps,
        sample_step=chosen,
        samples=[show(entry) for entry in journal.list_samples(session, run_id, chosen)] if chosen is not None else [],
        attempts=store.list_attempts(session, run_id),
        sections=shown_sections(run),
        leading=shown_leading(run),
        num_points=count_points(run, data),
        tiles=TILES[method] if run.kind == RunKind.TRAINING else (),
        values=latest_values(step, evaluation),
        memory=show(memory) if memory else None,
        final=show(final) if final else None,
        data=data,
    )
    return render(request, context)


def count_points(run: Run, data: dict[str, Any]) -> dict[str, int]:
    """Return how many points each chart has, as far as the page brings them along: of a run that failed, none means no chart."""
    series, histograms = data.get("series", {}), data.get("histograms", [])
    return {
        chart.id: max((len(series.get(line.key, [])) for line in chart.lines), default=len(histograms))
        for chart in shown_charts(run)
    }


def state_of(run: Run) -> dict[str, Any]:
    error = run.error or {}
    return {
        "state": run.told_state,
        "attempt": run.attempt,
        "reason": error.get("reason", ""),
        "remedy": error.get("remedy", ""),
        "worker": run.worker_id or "",
    }


def latest_values(*entries: JournalEntry | None) -> dict[str, float | None]:
    """Return the metrics of the newest events, by key."""
    return {key: value for entry in entries if entry is not None for key, value in entry.payload["metrics"].items()}


def chart_data(session: ReadSession, run: Run) -> dict[str, Any]:
    """Return what the charts start from; the live stream goes on after `after`, and sends nothing that changes what is here."""
    return {
        "run_id": run.id,
        "state": run.told_state,
        "after": run.last_seq,
        "edges": list(WEIGHT_EDGES),
        "charts": [chart.to_dict() for chart in shown_charts(run)],
        **(series_data(session, run) if run.step <= STEPS_IN_PAGE else {}),
    }


def series_data(session: ReadSession, run: Run) -> dict[str, Any]:
    """Return the series and the histograms, down-sampled."""
    wanted = keys(shown_charts(run))
    return {
        "series": metrics.list_metrics(session, run.id, wanted, points=POINTS),
        "histograms": journal.list_histograms(session, run.id),
    }


@router.get("/runs/{run_id}/series")
def show_series(session: ReadSession, user: CurrentUser, run_id: str) -> dict[str, Any]:
    """For the charts of a long run, whose page would otherwise wait for them."""
    return series_data(session, store.get_run(session, user.id, run_id))


@router.get("/runs/{run_id}/clock")
def show_clock(session: ReadSession, user: CurrentUser, run_id: str) -> list[tuple[int, float, float]]:
    """Tokens and seconds trained, by step: for charts along them."""
    return [(0, 0.0, 0.0), *metrics.list_clock(session, store.get_run(session, user.id, run_id).id)]


def list_shown(session: ReadSession, run_id: str, kind: str) -> list[Shown]:
    return [show(entry) for entry in journal.read(session, run_id, limit=500, kinds=[kind])]


def newest_artifacts(session: ReadSession, run_id: str) -> list[Shown]:
    """One line for each file, however often it was written."""
    return list({shown.event.model_dump()["name"]: shown for shown in list_shown(session, run_id, "artifact")}.values())


def recent_log(session: ReadSession, run_id: str) -> list[Shown]:
    """Return the newest lines, oldest first."""
    return [show(entry) for entry in journal.read_last(session, run_id, LOG_KINDS, LOG_LINES)]
