"""Who may come in: the first account, one-time login links, browser sessions and bearer tokens.

A secret is 32 random bytes, shown once; only its SHA-256 is stored. A slow hash would add nothing: nobody guesses 256 bits.
"""

import hashlib
import re
import secrets
from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, Unauthenticated
from app.store import accounts
from app.store.database import now
from app.store.tables import Token, User
from app.system.identifiers import new_id

LOGIN_LINK_HOURS = 24
ROLES = ("admin", "member")
SCOPES = ("read", "write")
USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,79}")


def ensure_admin(session: Session) -> User:
    """Return the first administrator; made when there is none."""
    return accounts.find_admin(session) or create_user(session, "admin", "admin")


def create_user(session: Session, name: str, role: str = "member") -> User:
    """Raises: InvalidInput for a bad name or role; Conflict when the name is taken."""
    if not USER_NAME.fullmatch(name):
        raise InvalidInput.at("name", "A user's name has 1 to 80 of: small letters, digits and . _ @ -, no sign first.")
    if role not in ROLES:
        raise InvalidInput.at("role", f'There is no role "{role}"; choose admin or member.')
    if accounts.find_user(session, name) is not None:
        raise Conflict(f'There is already a user "{name}".')
    user = User(id=new_id("user"), name=name, role=role, created_at=now(session))
    session.add(user)
    session.flush()
    return user


def create_login_link(session: Session, user: User) -> str:
    """Return a secret that signs `user` in once, within a day; the user's older links end."""
    accounts.delete_tokens(session, user.id, "login")
    return issue(session, user, "login", timedelta(hours=LOGIN_LINK_HOURS))


def greet(session: Session, *, renew: bool = False) -> str | None:
    """At a start: a login secret for the administrator while nobody is signed in, else None. Old tokens are swept.

    A link that is still good isn't made again, unless `renew`: then it ends, and the new one is returned.
    """
    moment = now(session)
    accounts.delete_expired(session, moment)
    admin = ensure_admin(session)
    if accounts.has_live_token(session, "session", moment) or (not renew and accounts.has_live_token(session, "login", moment)):
        return None
    return create_login_link(session, admin)


def redeem_login(session: Session, secret: str, session_days: int = 30) -> str:
    """Trades a login secret for a browser session's secret. The guarded update lets two redeemers not both win.

    Raises: Unauthenticated.
    """
    moment = now(session)
    digest = digest_of(secret)
    used = session.execute(
        update(Token)
        .where(Token.digest == digest, Token.kind == "login", Token.used_at.is_(None), Token.expires_at > moment)
        .values(used_at=moment)
    )
    found = accounts.find_token(session, digest, "login")
    if used.rowcount != 1 or found is None:  # type: ignore[attr-defined]
        raise Unauthenticated("This login link is used up or too old. Make a new one on the server: varstudio login-link.")
    return issue(session, found[0], "session", timedelta(days=session_days))


def create_token(session: Session, user: User, name: str, scope: str = "write", days: int | None = None) -> str:
    """Return a bearer token for the API; `days` None: it doesn't expire.

    Raises: InvalidInput for an unknown scope.
    """
    if scope not in SCOPES:
        raise InvalidInput.at("scope", f'There is no scope "{scope}"; choose read or write.')
    return issue(session, user, "api", None if days is None else timedelta(days=days), name=name, scope=scope)


def authenticate(session: Session, secret: str, kind: str) -> tuple[User, Token]:
    """Return the user behind a secret of `kind` ("api" | "session"). Reads only.

    Raises: Unauthenticated, in the same words whatever the reason.
    """
    found = accounts.find_token(session, digest_of(secret), kind)
    if found is None or (found[1].expires_at is not None and found[1].expires_at <= now(session)):
        raise Unauthenticated("Your sign-in isn't known or has ended. Sign in again, or make a new token.")
    return found


def revoke(session: Session, secret: str, kind: str) -> None:
    """End one secret; unknown ones are no error."""
    found = accounts.find_token(session, digest_of(secret), kind)
    if found is not None:
        session.delete(found[1])


def issue(session: Session, user: User, kind: str, lifetime: timedelta | None, *, name: str = "", scope: str = "write") -> str:
    """Store the digest of a fresh secret and return the secret."""
    secret = secrets.token_urlsafe(32)
    moment = now(session)
    session.add(
        Token(
            digest=digest_of(secret),
            user_id=user.id,
            kind=kind,
            name=name,
            scope=scope,
            created_at=moment,
            expires_at=None if lifetime is None else moment + lifetime,
        )
    )
    session.flush()
    return secret


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
