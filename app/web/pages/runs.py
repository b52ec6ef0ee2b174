"""The list of runs and the page of one run, with what can be done to it."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.errors import InvalidInput, NotFound
from app.domain.events import StateChanged
from app.domain.metrics import WEIGHT_EDGES
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.services import runs as service
from app.store import journal, metrics, runs
from app.store import runs as store
from app.store.runs import RunRow
from app.store.tables import Attempt, JournalEntry, Run
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.pages.charts import TILES, Section, Tile, keys
from app.web.pages.run_queue import Steering, steering_of
from app.web.pages.run_status import RunStatus, method_of, shown_sections, standing_of
from app.web.pages.run_stream import Shown, show
from app.web.rendering.environment import Context, render
from app.web.rendering.format import count

router = APIRouter()

PAGE_SIZE = 30
LOG_LINES = 300
LOG_KINDS = ("state", "log", "resume", "checkpoint", "scoring", "memory", "outcome")
POINTS = 600
STEPS_IN_PAGE = 2000  # the charts of longer runs fetch their series after the first paint


@dataclass(frozen=True, kw_only=True)
class RunsPage(Context):
    template = "runs/list.html"

    rows: list[RunRow]
    counts: dict[str, int]
    state: str
    states: list[str]
    after: str
    next_after: str
    active_ids: list[str]
    num_datasets: int


@dataclass(frozen=True, kw_only=True)
class RunRows(Context):
    template = "runs/_rows.html"

    rows: list[RunRow]
    active_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class RunPage(Context):
    template = "runs/run.html"

    run: Run
    row: RunRow
    recipe: dict[str, Any]
    method: Method
    state: Shown
    standing: RunStatus
    steering: Steering
    findings: list[Shown]
    log: list[Shown]
    artifacts: list[Shown]
    sample_steps: list[int]
    sample_step: int | None
    samples: list[Shown]
    attempts: list[Attempt]
    sections: tuple[Section, ...]
    tiles: tuple[Tile, ...]
    values: dict[str, float | None]
    memory: Shown | None
    final: Shown | None
    data: dict[str, Any]
    has_weights: bool
    has_samples: bool


@dataclass(frozen=True, kw_only=True)
class SamplesPart(Context):
    template = "runs/_samples.html"

    sample_step: int
    samples: list[Shown]


@dataclass(frozen=True, kw_only=True)
class WeightsPart(Context):
    template = "runs/_weights.html"

    dataset_id: str
    step: int
    batch: int
    rows: list[dict[str, Any]]
    largest: float


After = Annotated[str, Query(max_length=60)]
Step = Annotated[int, Query(ge=0, le=2**31)]


@router.get("/")
@router.get("/runs")
def list_runs(request: Request, session: ReadSession, user: CurrentUser, state: str = "", after: After = "") -> HTMLResponse:
    wanted = state if state in list(RunState) else ""
    found = store.list_runs(session, user.id, state=wanted or None, after=after or None, limit=PAGE_SIZE + 1)
    rows = runs.describe_runs(session, found[:PAGE_SIZE])
    context = RunsPage(
        rows=rows,
        counts=runs.count_runs(session, user.id),
        state=wanted,
        states=[str(one) for one in RunState],
        after=after,
        next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "",
        active_ids=active(rows),
        num_datasets=runs.count_datasets(session, user.id),
    )
    return render(request, context)


@router.get("/runs/rows")
def refresh_rows(
    request: Request, session: ReadSession, user: CurrentUser, ids: Annotated[str, Query(max_length=4000)] = ""
) -> HTMLResponse:
    """The moving cells of these runs, for the list to take in."""
    found = [run for id in ids.split(",")[:PAGE_SIZE] if id and (run := session.get(Run, id)) and run.owner_id == user.id]
    rows = runs.describe_runs(session, found)
    return render(request, RunRows(rows=rows, active_ids=active(rows)))


def active(rows: list[RunRow]) -> list[str]:
    return [row.run.id for row in rows if not RunState(row.run.state).final]


@router.get("/runs/{run_id}")
def show_run(
    request: Request, session: ReadSession, user: CurrentUser, run_id: str, sample_step: int | None = None
) -> HTMLResponse:
    run = store.get_run(session, user.id, run_id)
    steps = journal.list_sample_steps(session, run_id)
    chosen = sample_step if sample_step in steps else steps[-1] if steps else None
    method = method_of(run)
    step, evaluation, memory, final = (
        journal.latest(session, run_id, kind) for kind in ("step", "evaluation", "memory", "final")
    )
    context = RunPage(
        run=run,
        row=runs.describe_runs(session, [run])[0],
        recipe=run.recipe,
        method=method,
        state=Shown.of(StateChanged(**state_of(run)), run),
        standing=standing_of(session, run),
        steering=steering_of(session, run),
        findings=list_shown(session, run_id, "finding"),
        log=recent_log(session, run_id),
        artifacts=newest_artifacts(session, run_id),
        sample_steps=steps,
        sample_step=chosen,
        samples=[show(entry) for entry in journal.list_samples(session, run_id, chosen)] if chosen is not None else [],
        attempts=store.list_attempts(session, run_id),
        sections=shown_sections(run),
        tiles=TILES[method] if run.kind == RunKind.TRAINING else (),
        values=latest_values(step, evaluation),
        memory=show(memory) if memory else None,
        final=show(final) if final else None,
        data=chart_data(session, run),
        has_weights=run.kind == RunKind.TRAINING and method is Method.VAR,
        has_samples=run.kind == RunKind.TRAINING and method is not Method.REWARD_MODEL,
    )
    return render(request, context)


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
        "charts": [chart.to_dict() for section in shown_sections(run) for chart in section.charts],
        **(series_data(session, run) if run.step <= STEPS_IN_PAGE else {}),
    }


def series_data(session: ReadSession, run: Run) -> dict[str, Any]:
    """Return the series and the histograms, down-sampled."""
    wanted = keys(chart for section in shown_sections(run) for chart in section.charts)
    return {
        "series": metrics.list_metrics(session, run.id, wanted, points=POINTS),
        "histograms": journal.list_histograms(session, run.id),
    }


@router.get("/runs/{run_id}/series")
def show_series(session: ReadSession, user: CurrentUser, run_id: str) -> dict[str, Any]:
    """For the charts of a long run, whose page would otherwise wait for them."""
    return series_data(session, store.get_run(session, user.id, run_id))


def list_shown(session: ReadSession, run_id: str, kind: str) -> list[Shown]:
    return [show(entry) for entry in journal.read(session, run_id, limit=500, kinds=[kind])]


def newest_artifacts(session: ReadSession, run_id: str) -> list[Shown]:
    """One line for each file, however often it was written."""
    return list({shown.event.model_dump()["name"]: shown for shown in list_shown(session, run_id, "artifact")}.values())


def recent_log(session: ReadSession, run_id: str) -> list[Shown]:
    """Return the newest lines, oldest first."""
    return [show(entry) for entry in journal.read_last(session, run_id, LOG_KINDS, LOG_LINES)]


@router.get("/runs/{run_id}/samples")
def show_samples(request: Request, session: ReadSession, user: CurrentUser, run_id: str, step: Step) -> HTMLResponse:
    store.get_run(session, user.id, run_id)
    shown = [show(entry) for entry in journal.list_samples(session, run_id, step)]
    return render(request, SamplesPart(sample_step=step, samples=shown))


@router.get("/runs/{run_id}/weights")
def show_weights(
    request: Request, session: ReadSession, user: CurrentUser, files: CurrentFiles, run_id: str, step: str = ""
) -> HTMLResponse:
    """The responses of one step's batch with the parts of their weights."""
    run = store.get_run(session, user.id, run_id)
    number = int(step) if step.isascii() and step.isdecimal() and len(step) < 10 else 0
    if number < 1:
        raise InvalidInput.at("step", f"Type a step, a whole number {steps_of(run)}.")
    logged = journal.find_step(session, run_id, number)
    if logged is None:
        raise NotFound(no_such_step(run, number))
    batch = int(logged.payload["batch"])
    rows = store.read_weights(files, run_id, batch)
    largest = max((row["weight"] for row in rows), default=0.0)
    context = WeightsPart(dataset_id=run.dataset_id, step=number, batch=batch, rows=rows, largest=largest)
    return render(request, context)


def steps_of(run: Run) -> str:
    return f"from 1 to {count(run.step)}" if run.step else "from 1 on"


def no_such_step(run: Run, step: int) -> str:
    """Return why a step has no batch to show."""
    if not RunState(run.state).final:
        return f"Step {count(step)} isn't logged yet" + (f"; choose a step {steps_of(run)}." if run.step else ".")
    if run.step == 0:
        return "This run ended before its first step, so there is no batch to show."
    return f"This run has no step {count(step)}; choose one {steps_of(run)}."


@router.post("/runs/{run_id}/cancel")
def cancel_run(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    service.request_cancel(session, user.id, run_id)
    return back_to(request, f"/runs/{run_id}", stay=True)


@router.post("/runs/{run_id}/resume")
def resume_run(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    service.resume(session, user.id, run_id)
    return back_to(request, f"/runs/{run_id}")


@router.post("/runs/{run_id}/delete")
def delete_run(request: Request, session: WriteSession, user: CurrentUser, files: CurrentFiles, run_id: str) -> Response:
    service.delete(session, files, user.id, run_id)
    return back_to(request, "/runs")


def back_to(request: Request, target: str, *, stay: bool = False) -> Response:
    """To `target` after a change; htmx is told by its own header, and with `stay` left alone: the stream shows the change."""
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={} if stay else {"hx-redirect": target})
    return RedirectResponse(target, status_code=303)
