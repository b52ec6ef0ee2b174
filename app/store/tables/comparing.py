"""Comparisons of answers to one prompt set, and the votes of people on pairs of them."""

from datetime import datetime
from typing import Any

from sqlalchemy import Float, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.owned import Owned
from app.store.tables.schema import Base


class Comparison(Owned, Base):
    MADE_OF = {"prompt_set_id": "prompt_sets", "answers_ids.*": "answers"}  # noqa: RUF012

    __tablename__ = "comparisons"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(120))
    prompt_set_id: Mapped[str] = mapped_column(ForeignKey("prompt_sets.id"), index=True)
    answers_ids: Mapped[list[Any]]  # of Answers, in the order they are shown
    created_at: Mapped[datetime]


class VoteLink(Base):
    """Lets people without an account vote on one comparison, until it ends; only the SHA-256 of its secret is kept."""

    __tablename__ = "vote_links"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    comparison_id: Mapped[str] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Voter(Base):
    """Somebody who votes on one comparison: a user, or who came by a vote link, whose browser has a secret of its own."""

    __tablename__ = "voters"
    __table_args__ = (UniqueConstraint("comparison_id", "user_id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    comparison_id: Mapped[str] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    link_id: Mapped[str | None] = mapped_column(ForeignKey("vote_links.id", ondelete="SET NULL"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    digest: Mapped[str | None] = mapped_column(String(64), unique=True)  # of the browser's secret
    created_at: Mapped[datetime]


class Vote(Base):
    """A person's judgement of two answers to one prompt, as they stood at the left and at the right."""

    __tablename__ = "votes"
    __table_args__ = (UniqueConstraint("comparison_id", "voter_id", "prompt", "pair"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    comparison_id: Mapped[str] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"))
    voter_id: Mapped[str] = mapped_column(ForeignKey("voters.id", ondelete="CASCADE"), index=True)
    prompt: Mapped[int] = mapped_column(Integer)  # index in the prompt set
    pair: Mapped[str] = mapped_column(String(100))  # both answers, the same whichever stood where
    left_id: Mapped[str] = mapped_column(String(40))  # of Answers; no foreign key
    left_draw: Mapped[int] = mapped_column(Integer)
    right_id: Mapped[str] = mapped_column(String(40))
    right_draw: Mapped[int] = mapped_column(Integer)
    choice: Mapped[str] = mapped_column(String(16))  # left | right | tie | both_bad
    seconds: Mapped[float] = mapped_column(Float(53))
    at: Mapped[datetime]
