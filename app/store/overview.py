"""Runs as lists show them: with the names of what they use and how far the reward rose. Four queries, however many runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain.run import RunKind
from app.store.tables import Dataset, Metric, Model, Run, Sweep, User

Named = type[Dataset] | type[Model] | type[Sweep] | type[User]
REWARD_GAIN = "eval/reward_gain"


@dataclass(frozen=True)
class RunRow:
    """A run beside the names its ids stand for; `reward_gain` is the newest evaluation's, None before the first."""

    run: Run
    dataset: str
    policy: str
    reward: str
    sweep: str  # name of the sweep it belongs to
    reward_gain: float | None


def describe_runs(session: Session, runs: Sequence[Run]) -> list[RunRow]:
    """The rows of these runs, in their order."""
    datasets = names_of(session, Dataset, {run.dataset_id for run in runs})
    models = names_of(session, Model, {id for run in runs for id in (run.policy_id, run.reward_id) if id})
    sweeps = names_of(session, Sweep, {run.sweep_id for run in runs if run.sweep_id})
    gains = latest_values(session, [run.id for run in runs], REWARD_GAIN)
    return [
        RunRow(
            run=run,
            dataset=datasets.get(run.dataset_id, run.dataset_id),
            policy=models.get(run.policy_id, run.policy_id),
            reward=models.get(run.reward_id, run.reward_id) if run.reward_id else "",
            sweep=sweeps.get(run.sweep_id, "") if run.sweep_id else "",
            reward_gain=gains.get(run.id),
        )
        for run in runs
    ]


def latest_values(session: Session, run_ids: Sequence[str], key: str) -> dict[str, float | None]:
    """The value at the last step of one series, for each run that has it."""
    last = (
        select(Metric.run_id, func.max(Metric.step).label("step"))
        .where(Metric.key == key, Metric.run_id.in_(run_ids))
        .group_by(Metric.run_id)
        .subquery()
    )
    query = (
        select(Metric.run_id, Metric.value)
        .join(last, (Metric.run_id == last.c.run_id) & (Metric.step == last.c.step))
        .where(Metric.key == key)
    )
    return {row.run_id: row.value for row in session.execute(query)}


def count_runs(session: Session, owner_id: str) -> dict[str, int]:
    """How many of the owner's training runs are in each state; states without a run are left out."""
    mine = (Run.owner_id == owner_id, Run.kind == RunKind.TRAINING.value)
    query = select(Run.state, func.count().label("num_runs")).where(*mine).group_by(Run.state)
    return {row.state: row.num_runs for row in session.execute(query)}


def count_datasets(session: Session, owner_id: str) -> int:
    return session.scalar(select(func.count()).where(Dataset.owner_id == owner_id)) or 0


def names_of(
    session: Session, table: type[Dataset] | type[Model] | type[Sweep] | type[User], ids: Iterable[str]
) -> dict[str, str]:
    return {row.id: row.name for row in session.execute(select(table.id, table.name).where(table.id.in_(list(ids))))}
