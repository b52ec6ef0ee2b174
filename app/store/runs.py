"""Runs as they are kept: rows, attempts, the weights file of a run, and the rows of lists with the names of what a run uses."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.domain.run import RunKind, RunState, tell_state
from app.store.database import now
from app.store.files import parquet
from app.store.files.files import Files
from app.store.sharing import get_visible, visible_to
from app.store.tables import Attempt, Dataset, JournalEntry, Model, Run, Sweep, User

ALL_CHECKPOINTS_REMOVED = "All checkpoints were removed"  # how retention says it in the journal


def get_run(session: Session, user_id: str, run_id: str) -> Run:
    """Return a run that the user may see. Raises NotFound."""
    return get_visible(session, Run, user_id, run_id)


def is_told(state: RunState) -> ColumnElement[bool]:
    """Return whether people are told this state of a run."""
    if state not in (RunState.QUEUED, RunState.PAUSED):
        return Run.state == state
    is_held = Run.held_at.is_not(None) if state is RunState.PAUSED else Run.held_at.is_(None)
    return and_(Run.state == RunState.QUEUED, is_held)


def list_runs(
    session: Session, user_id: str, *, state: RunState | str | None = None, kind: RunKind | None = RunKind.TRAINING,
    mine: bool = False, after: str | None = None, limit: int = 50,
) -> list[Run]:  # fmt: skip
    """Return the runs of one kind (None: of any) that the user may see, newest first.

    `after` is the id of the last run of the page before; with `mine` the user's own.
    """
    query = select(Run).where(visible_to(user_id, Run, mine=mine))
    if kind is not None:
        query = query.where(Run.kind == kind.value)
    if state is not None:
        query = query.where(is_told(RunState(state)))
    if after is not None:
        query = query.where(Run.id < after)
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def lock_run(session: Session, run_id: str) -> Run:
    """Return the run's row as it is now, locked until the transaction ends. Raises NotFound."""
    run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.")
    return run


class RunWishes(NamedTuple):
    """What the supervisor of a running run looks for."""

    token: int
    cancel_wanted: bool
    release_wanted: bool


def watch(session: Session, run_ids: Sequence[str]) -> dict[str, RunWishes]:
    """Of each run that is running: its fencing token, and whether it is to be cancelled, or to save and go back to the queue."""
    query = select(Run.id, Run.token, Run.cancel_requested_at, Run.release_requested_at)
    rows = session.execute(query.where(Run.id.in_(run_ids), Run.state == RunState.RUNNING))
    return {run_id: RunWishes(token, cancel is not None, release is not None) for run_id, token, cancel, release in rows}


def list_running(session: Session, worker_id: str | None = None) -> list[Run]:
    """Return the running runs, of one worker or of all, in the order of their ids."""
    query = select(Run).where(Run.state == RunState.RUNNING)
    if worker_id is not None:
        query = query.where(Run.worker_id == worker_id)
    return list(session.scalars(query.order_by(Run.id)))


def has_lost_checkpoints(session: Session, run_id: str) -> bool:
    """Return whether the journal says that the run's checkpoints were all removed, and of none since."""
    query = select(func.max(JournalEntry.seq)).where(JournalEntry.run_id == run_id)
    saved = session.scalar(query.where(JournalEntry.kind == "checkpoint")) or 0
    text = JournalEntry.payload["text"].as_string()
    removed = session.scalar(query.where(JournalEntry.kind == "log", text.startswith(ALL_CHECKPOINTS_REMOVED)))
    return removed is not None and removed > saved


def list_attempts(session: Session, run_id: str) -> list[Attempt]:
    """Return the run's attempts, first to last."""
    return list(session.scalars(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number)))


def sum_seconds(session: Session, run_ids: Sequence[str]) -> dict[str, float]:
    """Return how long workers were at each run, over all its attempts; those that never began are left out."""
    at = now(session)
    query = select(Attempt.run_id, Attempt.started_at, Attempt.ended_at).where(Attempt.run_id.in_(run_ids))
    spent: dict[str, float] = {}
    for run_id, started_at, ended_at in session.execute(query):
        spent[run_id] = spent.get(run_id, 0.0) + max(0.0, ((ended_at or at) - started_at).total_seconds())
    return spent


def read_weights(files: Files, run_id: str, batch: int) -> list[dict[str, Any]]:
    """Return the responses of one batch of the plan, with their weights (columns of artifacts/weights.parquet).

    Raises NotFound while the run has not written the file; a batch outside the plan gives an empty list.
    """
    return parquet.read_value(files.artifact_path(run_id, "weights.parquet"), "batch", batch)


def read_lineage(files: Files, run_id: str, example_id: int) -> list[dict[str, Any]]:
    """Return the rows of one example in all batches of the plan. Raises as `read_weights`; not there gives an empty list."""
    return parquet.read_value(files.artifact_path(run_id, "weights.parquet"), "example_id", example_id)


Named = type[Dataset] | type[Model] | type[Sweep] | type[User]


@dataclass(frozen=True)
class RunRow:
    """A run beside the names its ids stand for, "" for none."""

    run: Run
    dataset: str
    policy: str
    reward: str
    sweep: str  # name of the sweep it belongs to


def describe_runs(session: Session, user_id: str, runs: Sequence[Run]) -> list[RunRow]:
    """Return the rows of these runs, in their order; a sweep that the user may not see is not named."""
    datasets = names_of(session, Dataset, {run.dataset_id for run in runs if run.dataset_id})
    models = names_of(session, Model, {id for run in runs for id in (run.policy_id, run.reward_id) if id})
    of_sweeps = select(Sweep.id, Sweep.name).where(Sweep.id.in_({run.sweep_id for run in runs if run.sweep_id}))
    sweeps = {row.id: row.name for row in session.execute(of_sweeps.where(visible_to(user_id, Sweep)))}
    return [
        RunRow(
            run=run,
            dataset=datasets.get(run.dataset_id, run.dataset_id) if run.dataset_id else "",
            policy=models.get(run.policy_id, run.policy_id) if run.policy_id else "",
            reward=models.get(run.reward_id, run.reward_id) if run.reward_id else "",
            sweep=sweeps.get(run.sweep_id, "") if run.sweep_id else "",
        )
        for run in runs
    ]


def count_runs(session: Session, user_id: str, *, mine: bool = False) -> dict[str, int]:
    """Return how many training runs that the user may see are in each state, as people are told it; none: it is left out."""
    seen = (visible_to(user_id, Run, mine=mine), Run.kind == RunKind.TRAINING.value)
    is_held = Run.held_at.is_not(None)
    query = select(Run.state, is_held, func.count()).where(*seen).group_by(Run.state, is_held)
    counts: Counter[str] = Counter()
    for state, held, num_runs in session.execute(query):
        counts[tell_state(state, is_held=held)] += num_runs
    return dict(counts)


def count_datasets(session: Session, user_id: str) -> int:
    return session.scalar(select(func.count()).where(visible_to(user_id, Dataset))) or 0


def names_of(
    session: Session, table: type[Dataset] | type[Model] | type[Sweep] | type[User], ids: Iterable[str]
) -> dict[str, str]:
    return {row.id: row.name for row in session.execute(select(table.id, table.name).where(table.id.in_(list(ids))))}
