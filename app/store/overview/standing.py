"""How one user's studio stands: what runs, what needs somebody, what came out last. A few queries, each by an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.dataset import DatasetState
from app.domain.run import RunKind, RunState
from app.store.database import now
from app.store.metrics import list_metrics, newest_values
from app.store.overview.run_list import FIGURES, STAGES
from app.store.results import list_findings
from app.store.runs import list_runs
from app.store.sharing import visible_to
from app.store.tables import Dataset, Model, Run

FEW = 6
RECENT_DAYS = 7  # failures older than this need nobody any more
POINTS = 60  # of a trend
LIVING = (RunState.RUNNING, RunState.INTERRUPTED, RunState.QUEUED)
INTERVAL = ("", "_low", "_high")


@dataclass(frozen=True)
class NewestFigure:
    """A newest figure with the ends of its interval, of the test set or else of the validation prompts."""

    value: float
    low: float | None
    high: float | None
    is_final: bool


NewestFigures = dict[str, NewestFigure]  # by the names of FIGURES; what wasn't measured is left out


@dataclass(frozen=True)
class FinishedRun:
    """A run that has succeeded, and what came of it."""

    run: Run
    figures: NewestFigures


@dataclass(frozen=True)
class Living:
    """A run that has not ended, with the course of its loss so far."""

    run: Run
    losses: list[tuple[int, float]]


@dataclass(frozen=True)
class Need:
    """Something that waits for a person."""

    kind: str  # "mapping" | "unreadable" | "failed" | "paused" | "finding"
    noun: str
    id: str
    name: str
    text: str
    at: datetime


@dataclass(frozen=True)
class Beginnings:
    """Whether anything of each noun is there yet."""

    dataset: bool
    policy: bool
    run: bool


def find_beginnings(session: Session, owner_id: str) -> Beginnings:
    ready = (visible_to(owner_id, Dataset), Dataset.state == DatasetState.READY)
    policies = (visible_to(owner_id, Model), Model.kind == "policy")
    mine = (Run.owner_id == owner_id, Run.kind == RunKind.TRAINING.value)
    asked = (select(Dataset.id).where(*ready), select(Model.id).where(*policies), select(Run.id).where(*mine))
    return Beginnings(*(session.scalar(query.limit(1)) is not None for query in asked))


def list_living(session: Session, owner_id: str) -> list[Living]:
    """Return the newest of the owner's runs that run or wait, those that run first."""
    found = [run for state in LIVING for run in list_newest(session, owner_id, state)][:FEW]
    return [Living(run, read_losses(session, run)) for run in found]


def list_newest(session: Session, owner_id: str, state: RunState) -> list[Run]:
    """Return a few of the owner's newest runs in this state, of every kind; each kind has its place in the index."""
    found = [run for kind in RunKind for run in list_runs(session, owner_id, state=state, kind=kind, mine=True, limit=FEW)]
    return sorted(found, key=lambda run: run.id, reverse=True)[:FEW]


def read_losses(session: Session, run: Run) -> list[tuple[int, float]]:
    if run.step < 2:
        return []
    return [(step, value) for step, value in list_metrics(session, run.id, ["loss"], POINTS)["loss"] if value is not None]


def list_results(session: Session, owner_id: str) -> list[FinishedRun]:
    """Return the owner's newest runs that have succeeded."""
    found = list_runs(session, owner_id, state=RunState.SUCCEEDED, mine=True, limit=FEW)
    figures = read_figures(session, [run.id for run in found])
    return [FinishedRun(run, figures[run.id]) for run in found]


def read_figures(session: Session, run_ids: Sequence[str]) -> dict[str, NewestFigures]:
    """Return what came of each of these runs so far. One query."""
    keys = [f"{stage}/{name}{end}" for stage in STAGES for name in FIGURES for end in INTERVAL]
    values = newest_values(session, run_ids, keys) if run_ids else {}
    return {run_id: {name: one for name in FIGURES if (one := read_figure(values.get(run_id, {}), name))} for run_id in run_ids}


def read_figure(values: dict[str, float | None], name: str) -> NewestFigure | None:
    for stage in STAGES:
        value, low, high = (values.get(f"{stage}/{name}{end}") for end in INTERVAL)
        if value is not None:
            return NewestFigure(value, low, high, stage == "test")
    return None


def list_needs(session: Session, owner_id: str, looked_at: Sequence[Run]) -> list[Need]:
    """Return what waits for a person, the newest first; findings only of the runs `looked_at`."""
    needs = [*data_needs(session, owner_id), *run_needs(session, owner_id)]
    findings = list_findings(session, [run.id for run in looked_at])
    for run in looked_at:
        raised = [one.title for one in findings.get(run.id, []) if one.severity != "info"]
        if raised:
            needs.append(Need("finding", "runs", run.id, run.name, "; ".join(raised[:3]), run.finished_at or run.created_at))
    return sorted(needs, key=lambda need: need.at, reverse=True)


def data_needs(session: Session, owner_id: str) -> list[Need]:
    """Return the newest data sets that wait for their columns to be mapped, or could not be read."""
    mine = select(Dataset).where(
        Dataset.owner_id == owner_id, Dataset.state.in_([DatasetState.NEEDS_MAPPING, DatasetState.FAILED])
    )
    found = []
    for one in session.scalars(mine.order_by(Dataset.id.desc()).limit(FEW)):
        is_unread = one.state == DatasetState.FAILED
        text = (one.error or {}).get("detail", "") if is_unread else "Its columns are unknown: map them."
        found.append(Need("unreadable" if is_unread else "mapping", "datasets", one.id, one.name, text, one.created_at))
    return found


def run_needs(session: Session, owner_id: str) -> list[Need]:
    """Return the newest runs that have failed lately or are paused."""
    since = now(session) - timedelta(days=RECENT_DAYS)
    failed = [
        Need("failed", "runs", run.id, run.name, (run.error or {}).get("reason", ""), run.finished_at or run.created_at)
        for run in list_newest(session, owner_id, RunState.FAILED)
        if (run.finished_at or run.created_at) >= since
    ]
    paused = [
        Need("paused", "runs", run.id, run.name, "It does not go on before it is released.", run.held_at or run.created_at)
        for run in list_newest(session, owner_id, RunState.PAUSED)
    ]
    return failed + paused
