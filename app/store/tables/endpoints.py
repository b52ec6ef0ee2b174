"""Endpoints: OpenAI-compatible servers whose models answer and judge."""

from datetime import datetime

from sqlalchemy import Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.schema import Base


class Endpoint(Base):
    """A server's model, for all users. Its key is kept sealed, and for the origin of its address alone."""

    __tablename__ = "endpoints"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), unique=True)
    address: Mapped[str] = mapped_column(String(500))
    model: Mapped[str] = mapped_column(String(200))
    sealed_key: Mapped[str | None] = mapped_column(Text)  # app.system.sealing; None: no key is sent
    at_once: Mapped[int] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime]
