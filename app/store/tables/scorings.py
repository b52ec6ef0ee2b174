"""Scorings, previews and sweeps: what is asked before and around training."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.owned import INGREDIENTS, Owned
from app.store.tables.schema import Base


class Scoring(Owned, Base):
    """The cached scores of one data set, policy, reward and batch plan; made by a run of kind scoring, or by a training run."""

    MADE_OF = INGREDIENTS

    __tablename__ = "scorings"
    __table_args__ = (UniqueConstraint("owner_id", "fingerprint"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)  # of `settings`, the data set's and the models' contents
    settings: Mapped[dict[str, Any]]  # app.domain.scoring.scoring_settings of the recipe it was asked with
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    policy_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    reward_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    run_id: Mapped[str | None] = mapped_column(String(40), index=True)  # the run of kind scoring that makes it; no foreign key
    facts: Mapped[dict[str, Any] | None]  # ScoringFacts, once it is whole
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]


class Preview(Base):
    """A preview that was asked for: the queue entry and, when done, the kept answer, for all who may see what it is of.

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
    asker_id: Mapped[str] = mapped_column(ForeignKey("users.id"))  # whose turn it takes in the workers' queue
    digest: Mapped[str] = mapped_column(String(64))  # of the request, and of the scoring's artifacts or the files' states
    job: Mapped[dict[str, Any]]  # PreviewJob without its paths, which each worker has of its own; of a reading its request
    state: Mapped[str] = mapped_column(String(16))  # "waiting" | "computing" | "done" | "failed"
    worker_id: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[datetime | None]
    result: Mapped[dict[str, Any] | None]  # PreviewResult, or the reading
    error: Mapped[dict[str, Any] | None]  # {"detail"}
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Sweep(Owned, Base):
    """Runs that differ in named fields only; `variants` as app.domain.sweep.Variant, runs point back by (sweep_id, variant)."""

    __tablename__ = "sweeps"
    __table_args__ = (UniqueConstraint("owner_id", "idempotency_key"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    request: Mapped[dict[str, Any]]  # SweepRequest
    variants: Mapped[list[Any]]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    idempotency_digest: Mapped[str | None] = mapped_column(String(64))
    stopped_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
