"""Who may come in: users and the digests of their tokens. No secret is ever kept."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.tables import Token, User


def find_user(session: Session, name: str) -> User | None:
    return session.scalar(select(User).where(User.name == name))


def get_user(session: Session, name: str) -> User:
    """Raises: NotFound."""
    user = find_user(session, name)
    if user is None:
        raise NotFound(f'There is no user "{name}". Add one: varstudio users add {name}.')
    return user


def find_admin(session: Session) -> User | None:
    """Return the first administrator, by age."""
    return session.scalar(select(User).where(User.role == "admin").order_by(User.created_at, User.id).limit(1))


def list_users(session: Session) -> list[User]:
    return list(session.scalars(select(User).order_by(User.name)))


def find_token(session: Session, digest: str, kind: str) -> tuple[User, Token] | None:
    row = session.execute(
        select(User, Token).join(Token, Token.user_id == User.id).where(Token.digest == digest, Token.kind == kind)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def has_live_token(session: Session, kind: str, now: datetime) -> bool:
    """Return whether anybody holds a token of this kind that is good still."""
    live = select(Token.digest).where(Token.kind == kind, Token.expires_at > now, Token.used_at.is_(None)).limit(1)
    return session.scalar(live) is not None


def delete_tokens(session: Session, user_id: str, kind: str, name: str | None = None) -> None:
    """All of a user's tokens of one kind, or those of one name."""
    statement = delete(Token).where(Token.user_id == user_id, Token.kind == kind)
    session.execute(statement if name is None else statement.where(Token.name == name))


def delete_expired(session: Session, now: datetime) -> None:
    session.execute(delete(Token).where(Token.expires_at <= now))
