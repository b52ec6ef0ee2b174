"""The judgement over a studio at rest: every run from its rows, its journal and its spools; files; processes; tables."""

import json
import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.domain.run import RunState
from app.store.database import Database
from app.store.tables import Attempt, Dataset, JournalEntry, Metric, Run, Worker
from tests.box.servers import find_postgresql
from tests.soak.mishaps import Harm, Outage
from tests.soak.town import LEASE_SECONDS, Town

FINAL = ("succeeded", "failed", "cancelled")
# With leases of 30 s a dead worker is noticed within 40 s and its run resumed within 60 s; here scaled by the lease.
NOTICED_SECONDS, RESUMED_SECONDS = LEASE_SECONDS * 40 / 30, LEASE_SECONDS * 60 / 30
SLACK_SECONDS = 4.0  # what a loaded machine takes beyond it
TEMPORARY = (".part", ".partial", ".tmp", ".new")


@dataclass
class Delay:
    """After a harm: seconds until the run was taken back and until it ran again, and how far other mishaps excuse it."""

    harm: Harm
    noticed: float
    resumed: float | None
    excuse: float


@dataclass
class Verdict:
    """What was found; `faults` must be empty."""

    faults: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    entries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    delays: list[Delay] = field(default_factory=list)

    def worst(self, kind: str) -> Delay | None:
        return max((delay for delay in self.delays if delay.harm.kind == kind), key=lambda delay: delay.noticed, default=None)


def judge_runs(
    database: Database, town: Town, launched: dict[str, str], resumed: dict[str, int], harms: Sequence[Harm],
    outages: Sequence[Outage],
) -> Verdict:  # fmt: skip
    """Every run that was launched, and no other."""
    verdict = Verdict()
    with database.reading() as session:
        runs = {run.id: run for run in session.scalars(select(Run))}
        if set(runs) != set(launched):
            verdict.faults.append(f"launched {len(launched)} runs, found {len(runs)}: {set(runs) ^ set(launched)}")
        for run in runs.values():
            verdict.states[run.state] += 1
            entries = list(session.scalars(select(JournalEntry).where(JournalEntry.run_id == run.id).order_by(JournalEntry.seq)))
            attempts = list(session.scalars(select(Attempt).where(Attempt.run_id == run.id).order_by(Attempt.number)))
            verdict.entries += len(entries)
            verdict.attempts += len(attempts)
            verdict.outcomes.update(attempt.outcome for attempt in attempts)
            found = [
                *judge_journal(run, entries), *judge_states(run, entries, resumed.get(run.id, 0)), *judge_metrics(session, run),
                *judge_attempts(run, attempts), *judge_spools(town.data / "runs" / run.id / "attempts"),
            ]  # fmt: skip
            verdict.faults += [f"{launched.get(run.id)} {run.id}: {fault}" for fault in found]
            verdict.delays += delays_of(run, entries, harms, outages)
        unread = session.scalar(select(func.count()).where(Dataset.state != "ready"))
        if unread:
            verdict.faults.append(f"{unread} data sets are not ready")
        if left := list(session.scalars(select(Worker.id))):
            verdict.faults.append(f"workers that have stopped are still listed: {left}")
    return verdict


def judge_journal(run: Run, entries: Sequence[JournalEntry]) -> list[str]:
    seqs = [entry.seq for entry in entries]
    whole = seqs == list(range(1, run.last_seq + 1))
    return [] if whole else [f"the journal is not dense: {len(seqs)} entries, last_seq {run.last_seq}"]


def judge_states(run: Run, entries: Sequence[JournalEntry], num_resumed: int) -> list[str]:
    """One final state, but for those that a user's Resume took back; the last one is the row's."""
    states = [entry.payload["state"] for entry in entries if entry.kind == "state"]
    finals = [state for state in states if state in FINAL]
    found = []
    if run.state not in ("succeeded", "cancelled"):
        found.append(f"ended {run.state}: {run.error}")
    if not states or states[-1] != run.state or len(finals) != num_resumed + 1 or finals.count("succeeded") > 1:
        found.append(f"states {states} with {num_resumed} resumes")
    if run.worker_id is None and run.state == RunState.SUCCEEDED:
        found.append("succeeded without a worker")
    return found


def judge_metrics(session: Session, run: Run) -> list[str]:
    """A run that succeeded has each of its steps once, and the stand-in's losses are those of its steps."""
    if run.state != RunState.SUCCEEDED:
        return []
    query = select(Metric.step, Metric.value).where(Metric.run_id == run.id, Metric.key == "loss").order_by(Metric.step)
    rows = [(step, value) for step, value in session.execute(query)]
    steps = run.recipe["training"]["steps"]
    if [step for step, _ in rows] != list(range(1, steps + 1)):
        return [f"losses of steps {[step for step, _ in rows]} instead of 1 to {steps}"]
    if run.name.startswith("stand-in") and any(value != 1.0 / step for step, value in rows):
        return ["a loss is not that of its step"]
    return []


def judge_attempts(run: Run, attempts: Sequence[Attempt]) -> list[str]:
    """Numbered without a gap, one token each, one after the other, all ended."""
    found = []
    if [attempt.number for attempt in attempts] != list(range(1, run.attempt + 1)) or run.token != run.attempt:
        found.append(f"attempts {[attempt.number for attempt in attempts]}, token {run.token}, attempt {run.attempt}")
    for earlier, later in pairwise(attempts):
        if earlier.ended_at is None or later.started_at < earlier.ended_at:
            found.append(
                f"attempt {later.number} began at {later.started_at}, before {earlier.number} ended at {earlier.ended_at}"
            )
    if any(attempt.ended_at is None for attempt in attempts):
        found.append("an attempt has no end")
    return found


def judge_spools(folder: Path) -> list[str]:
    """Never two runners at work: an attempt's first line is later than the last line of the one before."""
    found, last = [], ""
    for path in sorted(folder.glob("*/events.jsonl"), key=lambda path: int(path.parent.name)):
        times = [line["at"] for line in read_lines(path)]
        if times and times[0] < last:
            found.append(f"attempt {path.parent.name} wrote at {times[0]}, the one before it still at {last}")
        last = max([last, *times])
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The spool's whole lines; the last may be torn."""
    lines = []
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def delays_of(run: Run, entries: Sequence[JournalEntry], harms: Sequence[Harm], outages: Sequence[Outage]) -> list[Delay]:
    """How long each harm to the run took to be noticed and repaired, from the journal's times."""
    states = [(entry.at, entry.payload["state"], entry.payload["attempt"]) for entry in entries if entry.kind == "state"]
    found = []
    for harm in harms:
        if harm.run_id != run.id:
            continue
        noticed = next((at for at, state, number in states if number == harm.attempt and state == "interrupted"), None)
        if noticed is None or noticed < harm.at:
            continue  # it had ended, was cancelled, or its worker woke up in time
        later = [(at, state) for at, state, _ in states if at > noticed and state not in ("queued", "paused", "interrupted")]
        resumed = later[0][0] if later and later[0][1] == "running" else None  # else it was cancelled first
        seconds = (noticed - harm.at).total_seconds()
        found.append(
            Delay(harm, seconds, (resumed - harm.at).total_seconds() if resumed else None, excuse(harm.at, noticed, outages))
        )
    return found


def excuse(begin: datetime, end: datetime, outages: Sequence[Outage]) -> float:
    """Seconds that other outages explain: as long as a server was away, and a lease for its owners to renew after it.

    Another worker that was away or has just come back explains a lease too: new workers do not reap during their first.
    """
    from_there = begin - timedelta(seconds=2 * LEASE_SECONDS)
    others = [outage for outage in outages if outage.begin < end and outage.end > from_there and not is_own(outage, begin)]
    away = [min(outage.end, end) - max(outage.begin, from_there) for outage in others if not outage.kind.startswith("worker")]
    return sum((span.total_seconds() for span in away), LEASE_SECONDS if others else 0.0)


def is_own(outage: Outage, harmed_at: datetime) -> bool:
    """Whether the outage is the harm itself."""
    return outage.kind.startswith("worker") and abs((outage.begin - harmed_at).total_seconds()) < 1


def judge_delays(verdict: Verdict) -> list[str]:
    """Those that took longer than faults.md allows, beyond what other outages explain."""
    return [
        f"{delay.harm.kind}: attempt {delay.harm.attempt} of {delay.harm.run_id} was taken back after {delay.noticed:.1f} s"
        for delay in verdict.delays
        if delay.noticed > NOTICED_SECONDS + SLACK_SECONDS + delay.excuse
    ]


def judge_files(data: Path) -> list[str]:
    """Nothing half-written is left."""
    return [f"left behind: {path.relative_to(data)}" for path in data.rglob("*") if path.name.endswith(TEMPORARY)]


def judge_database(database: Database, town: Town) -> list[str]:
    """The database checks itself: pages and keys on SQLite; heaps and indexes on PostgreSQL."""
    with database.reading() as session:
        if database.is_sqlite:
            checks = [session.execute(text(f"PRAGMA {name}")).all() for name in ("integrity_check", "foreign_key_check")]
            return [] if [list(map(tuple, rows)) for rows in checks] == [[("ok",)], []] else [f"SQLite: {checks}"]
    programs = find_postgresql()
    assert programs is not None
    url = town.settings.sqlalchemy_url.replace("postgresql+psycopg", "postgresql")
    done = subprocess.run(
        [programs / "pg_amcheck", "--install-missing", "--heapallindexed", "--maintenance-db", url, "studio",
         "-h", "127.0.0.1", "-p", str(town.postgres_port), "-U", "studio"],
        env={**os.environ, "PGPASSWORD": url.split(":")[2].split("@")[0]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [] if done.returncode == 0 else [f"pg_amcheck: {done.stdout}{done.stderr}"]


def by_kind(verdict: Verdict) -> dict[str, list[Delay]]:
    found: dict[str, list[Delay]] = defaultdict(list)
    for delay in verdict.delays:
        found[delay.harm.kind].append(delay)
    return dict(found)
