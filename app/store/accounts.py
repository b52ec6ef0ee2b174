"""Who may come in: users, the digests of their tokens, and the log of acts. No secret is ever kept."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.tables import Act, Token, User

ACTIVE = (User.disabled_at.is_(None), User.removed_at.is_(None))


class UserRow(NamedTuple):
    """A user as lists show them: with how many browsers are signed in, and how many tokens are good."""

    user: User
    num_sessions: int
    num_tokens: int

    @property
    def state(self) -> str:
        return state_of(self.user)


def state_of(user: User) -> str:
    """Return active, disabled or removed."""
    if user.removed_at is not None:
        return "removed"
    return "active" if user.disabled_at is None else "disabled"


def find_user(session: Session, name: str) -> User | None:
    return session.scalar(select(User).where(User.name == name, User.removed_at.is_(None)))


def get_user(session: Session, name: str) -> User:
    """Raises: NotFound."""
    user = find_user(session, name)
    if user is None:
        raise NotFound(f'There is no user "{name}". Add one: varstudio users add {name}.')
    return user


def get_user_by_id(session: Session, user_id: str) -> User:
    """Raises: NotFound."""
    user = session.get(User, user_id)
    if user is None:
        raise NotFound(f"There is no user {user_id!r}.")
    return user


def find_name(session: Session, user_id: str) -> str:
    return session.scalar(select(User.name).where(User.id == user_id)) or user_id


def find_admin(session: Session) -> User | None:
    """Return the first administrator who may come in, by age."""
    return session.scalar(select(User).where(User.role == "admin", *ACTIVE).order_by(User.created_at, User.id).limit(1))


def lock_admins(session: Session) -> list[User]:
    """Return the administrators who may come in, so that nobody takes another one away meanwhile."""
    return list(session.scalars(select(User).where(User.role == "admin", *ACTIVE).order_by(User.id).with_for_update()))


def list_users(session: Session) -> list[User]:
    return list(session.scalars(select(User).where(User.removed_at.is_(None)).order_by(User.name)))


def describe_users(session: Session, now: datetime, user_id: str | None = None) -> list[UserRow]:
    """Return all users by name, the removed ones last; or the one of this id."""
    live = (or_(Token.expires_at.is_(None), Token.expires_at > now), Token.kind.in_(("api", "session")))
    counted = session.execute(select(Token.user_id, Token.kind, func.count()).where(*live).group_by(Token.user_id, Token.kind))
    numbers = {(owner, kind): number for owner, kind, number in counted}
    query = select(User).order_by(User.removed_at.is_not(None), User.name)
    users = session.scalars(query if user_id is None else query.where(User.id == user_id))
    return [UserRow(user, numbers.get((user.id, "session"), 0), numbers.get((user.id, "api"), 0)) for user in users]


def find_token(session: Session, digest: str, kind: str) -> tuple[User, Token] | None:
    row = session.execute(
        select(User, Token).join(Token, Token.user_id == User.id).where(Token.digest == digest, Token.kind == kind)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def get_token(session: Session, token_id: str) -> tuple[User, Token]:
    """Return an API token or a session with its user. Raises NotFound."""
    query = select(User, Token).join(Token, Token.user_id == User.id)
    row = session.execute(query.where(Token.id == token_id, Token.kind.in_(("api", "session")))).one_or_none()
    if row is None:
        raise NotFound(f"There is no token {token_id!r}: it was revoked, or its end was too long ago.")
    return row[0], row[1]


def list_tokens(session: Session, user_id: str, kind: str) -> list[Token]:
    """Return a user's tokens of one kind, the newest first."""
    query = select(Token).where(Token.user_id == user_id, Token.kind == kind)
    return list(session.scalars(query.order_by(Token.created_at.desc(), Token.id.desc())))


def list_all_tokens(session: Session) -> list[tuple[User, Token]]:
    """Return everybody's API tokens, by user, the newest first."""
    query = select(User, Token).join(Token, Token.user_id == User.id).where(Token.kind == "api")
    return [(row[0], row[1]) for row in session.execute(query.order_by(User.name, Token.created_at.desc(), Token.id))]


def list_good_tokens(session: Session, token_ids: Collection[str], now: datetime) -> set[str]:
    """Return those of these tokens that still let somebody in."""
    query = select(Token.id).join(User, Token.user_id == User.id).where(Token.id.in_(token_ids), *ACTIVE)
    return set(session.scalars(query.where(or_(Token.expires_at.is_(None), Token.expires_at > now))))


def has_live_token(session: Session, kind: str, now: datetime) -> bool:
    """Return whether anybody holds a token of this kind that is good still."""
    live = select(Token.digest).where(Token.kind == kind, Token.expires_at > now, Token.used_at.is_(None)).limit(1)
    return session.scalar(live) is not None


def delete_tokens(session: Session, user_id: str, *kinds: str) -> int:
    """Delete a user's tokens of these kinds, with all that was made by them; returns how many."""
    query = select(Token.id).where(Token.user_id == user_id, Token.kind.in_(kinds))
    return delete_with_made(session, list(session.scalars(query)))


def delete_with_made(session: Session, token_ids: Collection[str]) -> int:
    """Delete tokens, and the tokens, links and sessions that were made by them; returns how many."""
    ids = [*token_ids, *(token.id for token in list_made(session, token_ids))]
    done = session.execute(delete(Token).where(Token.id.in_(ids)))
    return int(done.rowcount)  # type: ignore[attr-defined]


def delete_sign_ins_made(session: Session, user_id: str) -> None:
    """Delete the links and sessions that were made by a user's API tokens, of whomever they are."""
    own = list(session.scalars(select(Token.id).where(Token.user_id == user_id, Token.kind == "api")))
    made = [token.id for token in list_made(session, own) if token.kind != "api"]
    session.execute(delete(Token).where(Token.id.in_(made)))


def list_made(session: Session, token_ids: Collection[str]) -> list[Token]:
    """Return what was made by these API tokens, and by what was made by them, of whomever."""
    found: dict[str, Token] = {}
    makers = set(token_ids)
    while makers:
        made = session.scalars(select(Token).where(Token.maker_id.in_(makers)))
        new = {token.id: token for token in made if token.id not in found}
        found |= new
        makers = set(new)
    return list(found.values())


def delete_expired(session: Session, now: datetime) -> None:
    session.execute(delete(Token).where(Token.expires_at <= now))


def list_acts(
    session: Session, *, of: str | None = None, kind: str | None = None, after: str | None = None, limit: int = 50
) -> list[Act]:
    """Return the newest acts first: all, or those by or about the user `of`."""
    query = select(Act).order_by(Act.id.desc()).limit(limit)
    if of is not None:
        query = query.where(or_(Act.actor_id == of, Act.user_id == of))
    if kind is not None:
        query = query.where(Act.kind == kind)
    if after is not None:
        query = query.where(Act.id < after)
    return list(session.scalars(query))


def delete_acts(session: Session, before: datetime) -> int:
    done = session.execute(delete(Act).where(Act.at < before))
    return int(done.rowcount)  # type: ignore[attr-defined]


def trim_acts(session: Session, kind: str, *, keep: int) -> int:
    """Delete all acts of a kind but the newest; returns how many."""
    oldest = session.scalar(select(Act.id).where(Act.kind == kind).order_by(Act.id.desc()).offset(keep - 1).limit(1))
    if oldest is None:
        return 0
    done = session.execute(delete(Act).where(Act.kind == kind, Act.id < oldest))
    return int(done.rowcount)  # type: ignore[attr-defined]
