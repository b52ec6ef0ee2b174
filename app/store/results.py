"""What the runs of a sweep came to: a row per variant, and every evaluation. As many queries for 64 runs as for one."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from app.domain.frontier import Cost, FrontierPoint
from app.store.metrics import newest_values
from app.store.runs import sum_seconds
from app.store.sweeps import list_runs
from app.store.tables import JournalEntry, Metric, Run, Sweep

KL, GAIN = "eval/kl", "eval/reward_gain"
COSTS = ("cost/tokens", "cost/seconds")
INTERVALS = ("", "_low", "_high")
EVALUATED = (
    GAIN, KL, "eval/loss", "eval/length_policy", "eval/length_reference",
    *(f"{stage}/{name}{end}" for stage in ("eval", "test") for name in ("win_rate", "length_win_rate") for end in INTERVALS),
    *(f"test/{name}{end}" for name in ("reward_gain", "kl") for end in INTERVALS), "test/num_prompts",
)  # fmt: skip
PER_STEP = ("weight/ess_share", "weight/spearman_length", "weight/spearman_reward", "tokens_per_second")
STEPS_AVERAGED = 50
NEWEST_LOSSES = 10


@dataclass(frozen=True)
class RaisedFinding:
    name: str
    severity: str
    title: str


@dataclass
class VariantResult:
    """A variant and what its run came to; `run` None: it was deleted, or is private to others."""

    variant: int
    label: str
    changes: dict[str, Any]
    run: Run | None
    metrics: dict[str, float | None] = field(default_factory=dict)  # newest evaluation; means over the newest steps
    findings: list[RaisedFinding] = field(default_factory=list)
    seconds: float | None = None  # that workers spent on it
    from_cache: bool | None = None  # its scores; None: not scored yet
    private: bool = False


def list_results(session: Session, sweep: Sweep, hidden: Collection[str] = ()) -> list[VariantResult]:
    """Return a row for each variant, in their order; of the `hidden` runs no more than that they are private."""
    runs = list_runs(session, sweep.id)
    private = {number for number, run in runs.items() if run.id in hidden}
    runs = {number: run for number, run in runs.items() if number not in private}
    ids = [run.id for run in runs.values()]
    evaluated, per_step = newest_values(session, ids, EVALUATED), _means(session, sweep.id)
    findings, seconds, from_cache = list_findings(session, ids), sum_seconds(session, ids), _scores(session, ids)
    results = []
    for number, variant in enumerate(sweep.variants):
        run = runs.get(number)
        result = VariantResult(number, str(variant["label"]), dict(variant["changes"]), run, private=number in private)
        if run is not None:
            result.metrics = {**evaluated[run.id], **per_step[run.id]}
            result.findings = findings[run.id]
            result.seconds, result.from_cache = seconds.get(run.id), from_cache.get(run.id)
        results.append(result)
    return results


def list_points(session: Session, sweep_id: str, hidden: Collection[str] = ()) -> list[FrontierPoint]:
    """Return every evaluation of every run but the `hidden` that has both a reward gain and a KL, by variant and step. Two
    queries.
    """
    kl, gain = aliased(Metric), aliased(Metric)
    same = and_(gain.run_id == kl.run_id, gain.step == kl.step, gain.key == GAIN)
    query = (
        select(Run.variant, kl.step, kl.value, gain.value)
        .join(kl, and_(kl.run_id == Run.id, kl.key == KL))
        .join(gain, same)
        .where(*_shown(sweep_id, hidden), kl.value.is_not(None), gain.value.is_not(None))
        .order_by(Run.variant, Run.id, kl.step)
    )
    rows: Iterable[Any] = session.execute(query)  # the query leaves no None
    kept = _kept_steps(session, sweep_id, hidden)
    return [FrontierPoint(*row)._replace(is_kept=kept.get(row[0]) == row[1]) for row in rows]


def _kept_steps(session: Session, sweep_id: str, hidden: Collection[str]) -> dict[int, int]:
    """Return the step of the model that each run has kept, by variant, where that is told."""
    query = select(Run.variant, JournalEntry.payload).join(Run, Run.id == JournalEntry.run_id)
    told = query.where(*_shown(sweep_id, hidden), JournalEntry.kind == "kept")
    rows: Iterable[Any] = session.execute(told.order_by(Run.id, JournalEntry.seq))
    return {variant: int(payload["step"]) for variant, payload in rows}


def list_costs(session: Session, sweep_id: str, reached: Mapping[int, int], variants: Iterable[int]) -> list[Cost]:
    """Return what each variant had spent at the step that it reached something at, the fewest tokens first."""
    query = (
        select(Run.variant, Metric.key, Metric.value)
        .join(Metric, and_(Metric.run_id == Run.id, Metric.key.in_(COSTS)))
        .where(Run.sweep_id == sweep_id, tuple_(Run.variant, Metric.step).in_(list(reached.items())))
    )
    rows: Iterable[Any] = session.execute(query) if reached else ()
    spent: dict[int, dict[str, float]] = defaultdict(dict)
    for variant, key, value in rows:
        spent[variant][key] = value
    found = [Cost(one, reached.get(one), *(spent[one].get(key) for key in COSTS)) for one in variants]
    return sorted(found, key=lambda cost: (cost.step is None, cost.tokens or 0.0, cost.variant))


def list_final_rewards(session: Session, sweep_id: str, hidden: Collection[str] = ()) -> dict[int, dict[int, float]]:
    """Return the reward of each policy's answer to each test prompt, by variant and example, of those that have ended and are
    not `hidden`.
    """
    query = (
        select(Run.variant, JournalEntry.payload)
        .join(Run, Run.id == JournalEntry.run_id)
        .where(*_shown(sweep_id, hidden), JournalEntry.kind == "final")
        .order_by(Run.id, JournalEntry.seq)
    )
    rows: Iterable[Any] = session.execute(query)
    return {
        variant: {prompt["example_id"]: prompt["policy_reward"] for prompt in payload["prompts"]}
        for variant, payload in rows
        if payload.get("prompts")
    }


def list_losses(session: Session, sweep_id: str) -> dict[str, tuple[float, float]]:
    """Return the loss of each run's first step and the mean over its newest ten, by run; without those that have none yet."""
    query = (
        select(Metric.run_id, Metric.step <= 1, func.avg(Metric.value))
        .join(Run, Run.id == Metric.run_id)
        .where(Run.sweep_id == sweep_id, Metric.key == "loss", or_(Metric.step <= 1, Metric.step > Run.step - NEWEST_LOSSES))
        .group_by(Metric.run_id, Metric.step <= 1)
    )
    found: dict[str, dict[bool, float]] = defaultdict(dict)
    for run_id, is_first, value in session.execute(query):
        found[run_id][bool(is_first)] = value
    return {run_id: (ends[True], ends[False]) for run_id, ends in found.items() if None not in ends.values() and len(ends) > 1}


def _shown(sweep_id: str, hidden: Collection[str]) -> list[ColumnElement[bool]]:
    return [Run.sweep_id == sweep_id, Run.variant.is_not(None), *([Run.id.not_in(hidden)] if hidden else [])]


def list_histograms(session: Session, run_ids: Sequence[str]) -> dict[str, list[int]]:
    """Return the weight histogram of each run's newest step that has one, by run."""
    newest = (
        select(JournalEntry.run_id, func.max(JournalEntry.seq).label("seq"))
        .where(JournalEntry.run_id.in_(run_ids), JournalEntry.kind == "step")
        .group_by(JournalEntry.run_id)
        .subquery()
    )
    query = select(JournalEntry.run_id, JournalEntry.payload).join(
        newest, and_(JournalEntry.run_id == newest.c.run_id, JournalEntry.seq == newest.c.seq)
    )
    return {run_id: payload["histogram"] for run_id, payload in session.execute(query) if sum(payload["histogram"])}


def _means(session: Session, sweep_id: str) -> dict[str, dict[str, float | None]]:
    # from the runs to their newest values: the other way round SQLite would read all values there are
    query = (
        select(Metric.run_id, Metric.key, func.avg(Metric.value))
        .join(Run, Run.id == Metric.run_id)
        .where(Run.sweep_id == sweep_id, Metric.key.in_(PER_STEP), Metric.step > Run.step - STEPS_AVERAGED)
        .group_by(Metric.run_id, Metric.key)
    )
    return _by_run(session, query)


def _by_run(session: Session, query: Any) -> dict[str, dict[str, float | None]]:
    values: dict[str, dict[str, float | None]] = defaultdict(dict)
    for run_id, key, value in session.execute(query):
        values[run_id][key] = value
    return values


def list_findings(session: Session, run_ids: Sequence[str]) -> dict[str, list[RaisedFinding]]:
    """Return each finding of these runs once, in the order in which they were raised first."""
    query = select(JournalEntry.run_id, JournalEntry.payload).where(
        JournalEntry.run_id.in_(run_ids), JournalEntry.kind == "finding"
    )
    found: dict[str, dict[str, RaisedFinding]] = defaultdict(dict)
    for run_id, payload in session.execute(query.order_by(JournalEntry.seq)):
        found[run_id].setdefault(payload["name"], RaisedFinding(payload["name"], payload["severity"], payload["title"]))
    return defaultdict(list, {run_id: list(named.values()) for run_id, named in found.items()})


def _scores(session: Session, run_ids: Sequence[str]) -> dict[str, bool]:
    """Return whether a run found its scores; what counts is its first attempt that had them whole."""
    query = select(JournalEntry.run_id, JournalEntry.payload).where(
        JournalEntry.run_id.in_(run_ids), JournalEntry.kind == "scoring"
    )
    found: dict[str, bool] = {}
    for run_id, payload in session.execute(query.order_by(JournalEntry.seq)):
        parts = [payload["scoring"]["logprob"], payload["scoring"]["reward"]]
        found.setdefault(run_id, all(part["hit"] for part in parts if part is not None))
    return found
