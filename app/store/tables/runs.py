"""Runs with their journal, metrics and attempts, and the workers that are at them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.domain.run import RunState, tell_state
from app.store.tables.owned import INGREDIENTS, Owned
from app.store.tables.schema import Base, BigInt

WAITING = text("state = 'queued' AND held_at IS NULL")


def place_of_new(context: DefaultExecutionContext) -> float:
    """Places are seconds since 1970: a new run stands where it was queued."""
    queued_at: datetime = context.get_current_parameters()["queued_at"]  # type: ignore[no-untyped-call]
    return queued_at.timestamp()


class Run(Owned, Base):
    MADE_OF = INGREDIENTS

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("owner_id", "idempotency_key"),
        Index("ix_runs_state", "state", "owner_id"),
        Index("ix_runs_kind", "kind", "id"),
        Index("ix_runs_kind_state", "kind", "state", "id"),
        Index("ix_runs_owner_kind", "owner_id", "kind", "id"),
        Index("ix_runs_owner_kind_state", "owner_id", "kind", "state", "id"),
        *(Index(f"ix_runs_by_{name}", "kind", name, "id") for name in ("name", "reward_gain", "win_rate", "kl")),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(16))  # RunState
    recipe: Mapped[dict[str, Any]]  # Recipe, resolved, never changed; empty where answers are asked for, which follow none
    next_recipe: Mapped[dict[str, Any] | None]  # what its model is made for: policy and reference of a run by this recipe
    provenance: Mapped[dict[str, Any]]  # dataset sha256, model revisions, package versions, git revision
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    policy_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    reward_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    idempotency_digest: Mapped[str | None] = mapped_column(String(64))
    priority: Mapped[int] = mapped_column(Integer, default=0)
    place: Mapped[float] = mapped_column(Float(53), default=place_of_new, server_default="0")  # among runs of one priority
    num_processes: Mapped[int] = mapped_column(Integer, default=1, server_default="1")  # of its recipe
    held_at: Mapped[datetime | None]  # paused: it is not begun
    wanted_worker: Mapped[str | None] = mapped_column(String(120))  # the only one that may begin it; forgotten when it did
    avoided_worker: Mapped[str | None] = mapped_column(String(120))  # the one that may not begin it
    release_requested_at: Mapped[datetime | None]  # a running run is asked to save and go back to the queue
    kind: Mapped[str] = mapped_column(String(16), default="training", server_default="training")  # RunKind
    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweeps.id"), index=True)
    variant: Mapped[int | None] = mapped_column(Integer)  # index among the sweep's variants
    scoring_id: Mapped[str | None] = mapped_column(ForeignKey("scorings.id", ondelete="SET NULL"), index=True)
    answers_id: Mapped[str | None] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)

    token: Mapped[int] = mapped_column(Integer, default=0)  # fencing token: +1 with every claim
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    num_failures: Mapped[int] = mapped_column(Integer, default=0)  # attempts lost since the last explicit (re)start
    worker_id: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    last_seq: Mapped[int] = mapped_column(BigInt, default=0)  # of the journal
    spool_attempt: Mapped[int] = mapped_column(Integer, default=0)  # whose spool is being recorded
    spool_n: Mapped[int] = mapped_column(BigInt, default=0)  # its last line that is in the journal

    stage: Mapped[str] = mapped_column(String(16), default="")
    step: Mapped[int] = mapped_column(Integer, default=0)
    num_steps: Mapped[int] = mapped_column(Integer, default=0)
    progress: Mapped[float] = mapped_column(Float, default=0.0)  # of the stage, 0..1
    seconds_left: Mapped[float | None]
    summary: Mapped[dict[str, Any] | None]  # final metrics
    error: Mapped[dict[str, Any] | None]  # {"reason", "remedy", "log_tail"}

    notes: Mapped[str] = mapped_column(Text, default="", server_default="")
    tag_rows: Mapped[list["RunTag"]] = relationship(cascade="all, delete-orphan", passive_deletes=True)
    reward_gain: Mapped[float | None] = mapped_column(Float(53))  # the newest figures, by which lists sort: of the test set, else
    win_rate: Mapped[float | None] = mapped_column(Float(53))  # of the validation prompts
    kl: Mapped[float | None] = mapped_column(Float(53))

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @property
    def told_state(self) -> RunState:
        """What people are told: its state, or that it is paused."""
        return tell_state(self.state, is_held=self.held_at is not None)

    @property
    def tags(self) -> list[str]:
        return sorted(row.tag for row in self.tag_rows)


Index("ix_runs_line", Run.owner_id, Run.priority.desc(), Run.place, Run.id, sqlite_where=WAITING, postgresql_where=WAITING)


class RunTag(Base):
    """A word that a run was marked with."""

    __tablename__ = "run_tags"
    __table_args__ = (Index("ix_run_tags_tag", "tag", "run_id"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(40))  # the run's


class JournalEntry(Base):
    """One event of a run; `seq` is dense per run, from 1."""

    __tablename__ = "journal"
    __table_args__ = (Index("ix_journal_kind", "run_id", "kind", "seq"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]]
    at: Mapped[datetime]


class Metric(Base):
    """One value of one series; a resumed attempt replaces what it steps over again. value None: it was not finite."""

    __tablename__ = "metrics"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(60), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    value: Mapped[float | None] = mapped_column(Float(53))


class MetricSpan(Base):
    """The smallest and the largest finite value of one series among `width` steps from `span` × `width` on (app.store.spans)."""

    __tablename__ = "metric_spans"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(60), primary_key=True)
    width: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    span: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    first_step: Mapped[int] = mapped_column(Integer)  # that has a value, or a gap
    low: Mapped[float | None] = mapped_column(Float(53))
    low_step: Mapped[int | None] = mapped_column(Integer)
    high: Mapped[float | None] = mapped_column(Float(53))
    high_step: Mapped[int | None] = mapped_column(Integer)


class Attempt(Base):
    __tablename__ = "attempts"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker_id: Mapped[str] = mapped_column(String(120))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(String(20), default="")  # Outcome, or "lost"
    reason: Mapped[str] = mapped_column(Text, default="")


class Worker(Base):
    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    devices: Mapped[list[Any]]  # [{"index": 0, "name": "…", "memory_bytes": …}]
    slots: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    paused_at: Mapped[datetime | None]  # it finishes what it runs and begins nothing; beats don't change this
    left_at: Mapped[datetime | None]  # it stopped in good order; only of a paused worker, which is remembered
    load: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")  # WorkerLoad, as of the last beat
    version: Mapped[str] = mapped_column(String(40), default="", server_default="")  # of VAR Studio
