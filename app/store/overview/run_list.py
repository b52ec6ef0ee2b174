"""The list of runs: searched, sorted and paged by indexes, and the figures that it is sorted by."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, false, func, or_, select, update
from sqlalchemy.orm import Session, selectinload

from app.domain.run import RunKind, RunState
from app.domain.texts import make_keepable
from app.store.metrics import last_steps
from app.store.runs import is_told
from app.store.sharing import visible_to
from app.store.tables import Metric, Run, RunTag

FIGURES = ("reward_gain", "win_rate", "kl")
MOST_WORDS = 8
STAGES = ("test", "eval")  # the test set, which is read once, before the validation prompts


class RunSort(StrEnum):
    """What a list of runs is sorted by."""

    CREATED = "created"
    NAME = "name"
    REWARD_GAIN = "reward_gain"
    WIN_RATE = "win_rate"
    KL = "kl"

    @property
    def is_figure(self) -> bool:
        """True when runs that have no such figure are left out."""
        return self in FIGURES


class SortOrder(StrEnum):
    ASCENDING = "asc"
    DESCENDING = "desc"


USUAL_ORDER = {RunSort.NAME: SortOrder.ASCENDING, RunSort.KL: SortOrder.ASCENDING}


@dataclass(frozen=True)
class RunQuery:
    """What is asked of the list. `search`: what name, notes, a tag or the id holds; `order` None: the usual one of `sort`."""

    kind: RunKind | None = RunKind.TRAINING
    mine: bool = False
    state: RunState | None = None
    search: str = ""
    tag: str = ""
    sort: RunSort = RunSort.CREATED
    order: SortOrder | None = None

    @property
    def is_descending(self) -> bool:
        return (self.order or USUAL_ORDER.get(self.sort, SortOrder.DESCENDING)) is SortOrder.DESCENDING


def find_runs(session: Session, user_id: str, asked: RunQuery, *, after: str | None = None, limit: int = 50) -> list[Run]:
    """Return a page of the runs that a user may see, with their tags; `after` is the id of the last run of the page before.

    The ids are found first, by an index alone where nothing is searched for: the rows are wide.
    """
    query = select(Run.id).where(*conditions(user_id, asked))
    column = column_of(asked.sort)
    if after is not None:
        query = query.where(follows(session, user_id, column, after, is_descending=asked.is_descending))
    ends = (column, Run.id) if column is not None else (Run.id,)
    ids = list(session.scalars(query.order_by(*(end.desc() if asked.is_descending else end for end in ends)).limit(limit)))
    found = session.scalars(select(Run).where(Run.id.in_(ids)).options(selectinload(Run.tag_rows)))
    runs = {run.id: run for run in found}
    return [runs[run_id] for run_id in ids if run_id in runs]


def column_of(sort: RunSort) -> Any:
    """Return the column of the rows that a list is sorted by before their ids; None for the ids alone, which sort by time."""
    return None if sort is RunSort.CREATED else getattr(Run, sort.value)


def conditions(user_id: str, asked: RunQuery) -> list[ColumnElement[bool]]:
    found = [visible_to(user_id, Run, mine=asked.mine)]
    if asked.kind is not None:
        found.append(Run.kind == asked.kind.value)
    if asked.state is not None:
        found.append(is_told(asked.state))
    if asked.tag:
        found.append(Run.id.in_(select(RunTag.run_id).where(RunTag.tag == make_keepable(asked.tag))))
    if asked.sort.is_figure:
        found.append(column_of(asked.sort).is_not(None))
    return [*found, *(holds(word) for word in make_keepable(asked.search).split()[:MOST_WORDS])]


def holds(word: str) -> ColumnElement[bool]:
    """Return whether a run's name, notes, id or one of its tags holds the word, in capitals or not."""
    tagged = select(RunTag.run_id).where(RunTag.tag.icontains(word, autoescape=True))
    texts = (column.icontains(word, autoescape=True) for column in (Run.name, Run.notes))
    return or_(*texts, Run.id == word, Run.id.in_(tagged))


def follows(session: Session, user_id: str, column: Any, after: str, *, is_descending: bool) -> ColumnElement[bool]:
    """Return whether a run stands behind the run `after`, which may be gone where ids alone are sorted by."""
    behind = Run.id < after if is_descending else Run.id > after
    if column is None:
        return behind
    value = session.scalar(select(column).where(Run.id == after, visible_to(user_id, Run)))
    if value is None:  # the run is gone or hidden, and with it its place
        return false()
    further = column < value if is_descending else column > value
    return or_(further, and_(column == value, behind))


def list_tags(session: Session, user_id: str, *, mine: bool = False, limit: int = 30) -> list[tuple[str, int]]:
    """Return the tags of the runs that a user may see with how many have each, the most used first."""
    number = func.count().label("number")
    query = select(RunTag.tag, number).join(Run, Run.id == RunTag.run_id).where(visible_to(user_id, Run, mine=mine))
    query = query.group_by(RunTag.tag)
    return [(tag, times) for tag, times in session.execute(query.order_by(number.desc(), RunTag.tag).limit(limit))]


def keep_figures(session: Session, run_id: str) -> None:
    """Write the newest figures of a run into its row: of the test set once they are there, else of the validation prompts."""
    keys = [f"{stage}/{name}" for name in FIGURES for stage in STAGES]
    steps = last_steps(session, run_id, keys)
    newest = or_(false(), *(and_(Metric.key == key, Metric.step == step) for key, step in steps.items()))
    query = select(Metric.key, Metric.value).where(Metric.run_id == run_id, newest)
    values = {key: value for key, value in session.execute(query) if value is not None}
    kept = {name: next((values[f"{stage}/{name}"] for stage in STAGES if f"{stage}/{name}" in values), None) for name in FIGURES}
    session.execute(update(Run).where(Run.id == run_id).values(**kept).execution_options(synchronize_session=False))
