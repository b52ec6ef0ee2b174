"""The tables. States and words are those of app.domain; every change of a table comes with a migration."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.domain.run import RunState, tell_state
from app.system.identifiers import new_id

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Json = JSON().with_variant(JSONB(), "postgresql")
BigInt = BigInteger().with_variant(Integer(), "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """Times with zone UTC in Python; SQLite keeps them without one, PostgreSQL with."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: Json, list[Any]: Json}  # noqa: RUF012


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    role: Mapped[str] = mapped_column(String(16))  # "admin" | "member"
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]  # the row stays, as the owner of what the user made


class Token(Base):
    """A bearer token, a browser session or a one-time login link: only its SHA-256 is kept."""

    __tablename__ = "tokens"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True, default=partial(new_id, "token"))  # what it is called by
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))  # "api" | "session" | "login"
    name: Mapped[str] = mapped_column(String(80), default="")
    scope: Mapped[str] = mapped_column(String(16), default="write")  # "read" | "write"
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(String(64), default="", server_default="")  # from where a session was begun


class Act(Base):
    """A sign-in, a change of a token or of an account, or what an admin did: who, when, from where, what. Names stay as they
    were, so there are no foreign keys.
    """

    __tablename__ = "acts"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)  # sorts by time
    at: Mapped[datetime] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(String(32))  # app.services.acts.KINDS
    actor_id: Mapped[str | None] = mapped_column(String(40), index=True)  # None: nobody who is known, or no user at all
    actor: Mapped[str] = mapped_column(String(120))
    address: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str | None] = mapped_column(String(40), index=True)  # whose account it is about, if any
    text: Mapped[str] = mapped_column(Text)


class Dataset(Base):
    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(20), index=True)  # DatasetState
    filename: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInt)
    sha256: Mapped[str] = mapped_column(String(64))
    mapping: Mapped[dict[str, Any] | None]  # ColumnMapping
    audit: Mapped[dict[str, Any] | None]  # Audit, once ready
    error: Mapped[dict[str, Any] | None]  # {"code", "detail", "problems", "extra"}
    num_examples: Mapped[int] = mapped_column(BigInt, default=0)
    previous_id: Mapped[str | None] = mapped_column(String(40))  # the data set whose file this maps another way, if any
    created_at: Mapped[datetime]


class Model(Base):
    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))  # "policy" | "reward"
    source: Mapped[str] = mapped_column(String(16))  # "hub" | "folder" | "run"
    path: Mapped[str] = mapped_column(String(1000))  # hub name; a folder's place in the data folder, or its absolute path
    revision: Mapped[str | None] = mapped_column(String(120))
    facts: Mapped[dict[str, Any]]  # architecture, num_parameters, vocab_size, context, chat template, sha256 …
    created_at: Mapped[datetime]


WAITING = text("state = 'queued' AND held_at IS NULL")


def place_of_new(context: DefaultExecutionContext) -> float:
    """Places are seconds since 1970: a new run stands where it was queued."""
    queued_at: datetime = context.get_current_parameters()["queued_at"]  # type: ignore[no-untyped-call]
    return queued_at.timestamp()


class Run(Base):
    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("owner_id", "idempotency_key"),
        Index("ix_runs_state", "state", "owner_id"),
        Index("ix_runs_owner_kind", "owner_id", "kind", "id"),
        Index("ix_runs_owner_kind_state", "owner_id", "kind", "state", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    state: Mapped[str] = mapped_column(String(16))  # RunState
    recipe: Mapped[dict[str, Any]]  # Recipe, resolved, never changed
    provenance: Mapped[dict[str, Any]]  # dataset sha256, model revisions, package versions, git revision
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    policy_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
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

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @property
    def told_state(self) -> RunState:
        """What people are told: its state, or that it is paused."""
        return tell_state(self.state, is_held=self.held_at is not None)


Index("ix_runs_line", Run.owner_id, Run.priority.desc(), Run.place, Run.id, sqlite_where=WAITING, postgresql_where=WAITING)


class Scoring(Base):
    """The cached scores of one data set, policy, reward and batch plan; made by a run of kind scoring, or by a training run."""

    __tablename__ = "scorings"
    __table_args__ = (UniqueConstraint("owner_id", "fingerprint"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    fingerprint: Mapped[str] = mapped_column(String(64))  # of `settings`, the data set's and the models' contents
    settings: Mapped[dict[str, Any]]  # app.domain.scoring.scoring_settings of the recipe it was asked with
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    policy_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    reward_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    run_id: Mapped[str | None] = mapped_column(String(40), index=True)  # the run of kind scoring that makes it; no foreign key
    facts: Mapped[dict[str, Any] | None]  # ScoringFacts, once it is whole
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]


class Preview(Base):
    """A preview that was asked for: the queue entry and, when done, the kept answer.

    Of a scoring's weights, or a reading: of a model, and perhaps of a data set.
    """

    __tablename__ = "previews"
    __table_args__ = (
        UniqueConstraint("scoring_id", "digest"),
        UniqueConstraint("model_id", "digest"),
        Index("ix_previews_waiting", "state", "created_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    scoring_id: Mapped[str | None] = mapped_column(ForeignKey("scorings.id", ondelete="CASCADE"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64))  # of the request, and of the scoring's artifacts or the files' states
    job: Mapped[dict[str, Any]]  # PreviewJob without its paths, which each worker has of its own; of a reading its request
    state: Mapped[str] = mapped_column(String(16))  # "waiting" | "computing" | "done" | "failed"
    worker_id: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]  # PreviewResult, or the reading
    error: Mapped[dict[str, Any] | None]  # {"detail"}
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Sweep(Base):
    """Runs that differ in named fields only; `variants` as app.domain.sweep.Variant, runs point back by (sweep_id, variant)."""

    __tablename__ = "sweeps"
    __table_args__ = (UniqueConstraint("owner_id", "idempotency_key"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(120))
    request: Mapped[dict[str, Any]]  # SweepRequest
    variants: Mapped[list[Any]]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    idempotency_digest: Mapped[str | None] = mapped_column(String(64))
    stopped_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


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
