"""The experiments there are, each with what it asks, what is expected, and what came of it here."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.domain.experiments.catalogue import EXPERIMENTS, Experiment
from app.domain.recipe import Method
from app.store.runs import list_runs
from app.store.sweeps import SweepRow, get_sweep, list_sweeps
from app.web.dependencies import CurrentUser, ReadSession
from app.web.rendering.choices import Choice, run_choices
from app.web.rendering.comparison import compare
from app.web.rendering.environment import Context, render
from app.web.rendering.experiments import ExperimentResult, judge

router = APIRouter()

MOST_SHOWN = 3
MOST_RUNS = 200  # looked at for settings to begin from; those of sweeps have changes of their own


@dataclass(frozen=True)
class ExperimentCard:
    """An experiment with the newest sweeps that asked it; `newest`: what came of the first of them."""

    experiment: Experiment
    sweeps: list[SweepRow]
    newest: ExperimentResult | None


@dataclass(frozen=True, kw_only=True)
class ExperimentsPage(Context):
    template = "experiments/list.html"

    cards: list[ExperimentCard]
    runs: list[Choice]


@router.get("/experiments")
def list_experiments(request: Request, session: ReadSession, user: CurrentUser) -> HTMLResponse:
    cards = [describe(session, user.id, experiment) for experiment in EXPERIMENTS.values()]
    newest = list_runs(session, user.id, limit=MOST_RUNS)
    runs = [run for run in newest if run.sweep_id is None and (run.recipe or {}).get("method") == Method.VAR]
    return render(request, ExperimentsPage(cards=cards, runs=run_choices(runs)))


def describe(session: ReadSession, user_id: str, experiment: Experiment) -> ExperimentCard:
    rows = list_sweeps(session, user_id, experiment=experiment.name, limit=MOST_SHOWN)
    newest = None
    if rows:
        sweep = get_sweep(session, user_id, rows[0].id)
        newest = judge(session, sweep, compare(session, sweep, user_id, None))
    return ExperimentCard(experiment, rows, newest)
