"""Users, what they sign in with, and what was done to accounts."""

from datetime import datetime
from functools import partial

from sqlalchemy import ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.store.tables.schema import Base
from app.system.identifiers import new_id


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
    maker_id: Mapped[str] = mapped_column(String(40), default="", server_default="")  # the API token it ends with; empty: none


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
