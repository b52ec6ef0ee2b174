"""Chats, and what is told of each while it is answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.schema import Base, BigInt


class Chat(Base):
    """A conversation that models are asked to answer: the queue entry, and then what is kept of it for its owner."""

    __tablename__ = "chats"
    __table_args__ = (Index("ix_chats_waiting", "state", "created_at"), Index("ix_chats_owner", "owner_id", "id"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    request: Mapped[dict[str, Any]]  # app.domain.answering.chat.ChatRequest
    names: Mapped[list[Any]]  # of its models
    state: Mapped[str] = mapped_column(String(16))  # "waiting" | "answering" | "done" | "stopped" | "failed"
    token: Mapped[int] = mapped_column(Integer, default=0)  # fencing token: +1 with every claim
    worker_id: Mapped[str | None] = mapped_column(String(120))
    lease_expires_at: Mapped[datetime | None]
    stop_requested_at: Mapped[datetime | None]
    last_seq: Mapped[int] = mapped_column(BigInt, default=0)  # of its entries
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class ChatEntry(Base):
    """One event of a chat. `seq` grows; pieces of an answer go once the whole is there."""

    __tablename__ = "chat_entries"

    chat_id: Mapped[str] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]]
    at: Mapped[datetime]
