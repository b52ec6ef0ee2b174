"""Who may come in: the first account, one-time login links, browser sessions and bearer tokens.

A secret is 32 random bytes, shown once; only its SHA-256 is stored. A slow hash would add nothing: nobody guesses 256 bits.
"""

import hashlib
import re
import secrets
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from app.services import acts
from app.services.acts import STUDIO, Actor
from app.store import accounts
from app.store.accounts import state_of
from app.store.database import now
from app.store.tables import Token, User
from app.system.identifiers import new_id

LOGIN_LINK_HOURS = 24
MAX_TOKEN_DAYS = 3650
TOKEN_NAME_LENGTH = 80
ROLES = ("admin", "member")
SCOPES = ("read", "write")
USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,79}")
BAD_LINK = "This login link is used up or too old. Make a new one on the server: varstudio login-link."
DISABLED = "This account is disabled. Ask an admin of the studio to enable it."


def ensure_admin(session: Session) -> User:
    """Return the first administrator; made when there is none."""
    return accounts.find_admin(session) or create_user(session, "admin", "admin")


def create_user(session: Session, name: str, role: str = "member", *, actor: Actor = STUDIO) -> User:
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
    acts.record(session, actor, "user_added", f"{name}, as {role}.", about=user)
    return user


def create_login_link(session: Session, user: User, *, actor: Actor = STUDIO) -> str:
    """Return a secret that signs `user` in once, within a day; the user's older links end. One that is made by an API token, and
    the sign-in that it leads to, end with that.

    Raises: Conflict when the user is disabled or removed.
    """
    if user.removed_at is not None:
        raise Conflict(f"{user.name}: nobody can sign in to a removed account; add a user instead.")
    if user.disabled_at is not None:
        raise Conflict(f"{user.name} is disabled: enable the account first (varstudio users enable {user.name}).")
    accounts.delete_tokens(session, user.id, "login")
    acts.record(session, actor, "link_created", f"For {user.name}, good for {LOGIN_LINK_HOURS} hours.", about=user)
    end = earliest(now(session) + timedelta(hours=LOGIN_LINK_HOURS), end_of_maker(session, actor.token_id))
    return issue(session, user, "login", end, maker_id=actor.token_id)[0]


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


def is_good_link(session: Session, secret: str) -> bool:
    """Return whether a login secret would sign somebody in. Reads only."""
    found = accounts.find_token(session, digest_of(secret), "login")
    if found is None or found[1].used_at is not None or state_of(found[0]) != "active":
        return False
    return found[1].expires_at is not None and found[1].expires_at > now(session)


def redeem_login(session: Session, secret: str, session_days: int = 30, *, address: str = "") -> str:
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
        raise Unauthenticated(BAD_LINK)
    user, maker_id = found[0], found[1].maker_id
    if state_of(user) != "active":
        raise Unauthenticated(DISABLED)
    end = earliest(moment + timedelta(days=session_days), end_of_maker(session, maker_id))
    given, token = issue(session, user, "session", end, maker_id=maker_id)
    token.address = address[: acts.ADDRESS_LENGTH]
    acts.record(session, actor_of(user, address), "signed_in", "By a login link.", about=user)
    return given


def note_failure(session: Session, secret: str, address: str, *, num_more: int = 0) -> str:
    """Write a failed sign-in into the log, with how many more were not written since the last; returns why it failed."""
    found = accounts.find_token(session, digest_of(secret), "login")
    user = None if found is None else found[0]
    if user is None:
        what = "With a secret that is not known."
    elif user.disabled_at is not None:
        what = f"With a login link of {user.name}, who is disabled."
    else:
        what = f"With a login link of {user.name} that is used up or too old."
    more = f" So did {num_more} more tries from elsewhere, which are not written down." if num_more else ""
    acts.record(session, Actor("", is_admin=False, name="somebody", address=address), "sign_in_failed", what + more, about=user)
    return DISABLED if user is not None and user.disabled_at is not None else BAD_LINK


def create_token(
    session: Session, user: User, name: str, scope: str = "write", days: int | None = None, *,
    actor: Actor = STUDIO, until: datetime | None = None,
) -> str:  # fmt: skip
    """Return a bearer token for the API that ends after `days` (None or 0: never), not after `until`, not after its maker.

    Raises: InvalidInput for an unknown scope or a bad name.
    """
    if scope not in SCOPES:
        raise InvalidInput.at("scope", f'There is no scope "{scope}"; choose read or write.')
    end = earliest(end_of(session, days), until, end_of_maker(session, actor.token_id))
    secret, token = issue(session, user, "api", end, name=check_name(name), scope=scope, maker_id=actor.token_id)
    acts.record(session, actor, "token_created", describe(user, token), about=user)
    return secret


def change_token(
    session: Session, actor: Actor, token_id: str, *, name: str | None = None, days: int | None = None
) -> tuple[User, Token]:
    """Give an API token another name, or another end: so many days from now (0: none), and not after the tokens that it is
    changed by and was made by. What was made by it ends then at the latest.

    Raises: NotFound for somebody else's, who is no admin; InvalidInput for a bad name; Conflict for a browser's session.
    """
    user, token = find_own(session, actor, token_id)
    if token.kind != "api":
        raise Conflict("A browser's session has no name and ends by itself: sign it out instead.")
    if name is not None:
        token.name = check_name(name)
    if days is not None:
        makers = (end_of_maker(session, maker_id) for maker_id in (actor.token_id, token.maker_id))
        token.expires_at = earliest(end_of(session, days), *makers)
        for made in accounts.list_made(session, [token.id]):
            made.expires_at = earliest(made.expires_at, token.expires_at)
    acts.record(session, actor, "token_changed", describe(user, token), about=user)
    return user, token


def revoke_token(session: Session, actor: Actor, token_id: str) -> None:
    """End an API token or a browser's session. Raises NotFound for somebody else's, who is no admin."""
    user, token = find_own(session, actor, token_id)
    kind, what = ("token_revoked", f"“{token.name}”") if token.kind == "api" else ("signed_out", "A browser")
    acts.record(session, actor, kind, f"{what} of {user.name}.", about=user)
    accounts.delete_with_made(session, [token.id])


def find_own(session: Session, actor: Actor, token_id: str) -> tuple[User, Token]:
    """Return a token and whose it is, where the actor may see it. Raises NotFound."""
    user, token = accounts.get_token(session, token_id)
    if not actor.is_admin and user.id != actor.id:
        raise NotFound(f"There is no token {token_id!r} of yours.")
    return user, token


def authenticate(session: Session, secret: str, kind: str) -> tuple[User, Token]:
    """Return the user behind a secret of `kind` ("api" | "session"). Reads only.

    Raises: Unauthenticated, in the same words whatever the reason, but for who is disabled.
    """
    found = accounts.find_token(session, digest_of(secret), kind)
    if found is None or (found[1].expires_at is not None and found[1].expires_at <= now(session)):
        raise Unauthenticated("Your sign-in isn't known or has ended. Sign in again, or make a new token.")
    if state_of(found[0]) != "active":
        raise Unauthenticated(DISABLED)
    return found


def revoke(session: Session, secret: str, kind: str, *, address: str = "") -> None:
    """End one secret; unknown ones are no error."""
    found = accounts.find_token(session, digest_of(secret), kind)
    if found is not None:
        acts.record(session, actor_of(found[0], address), "signed_out", "The browser itself.", about=found[0])
        session.delete(found[1])


def issue(
    session: Session, user: User, kind: str, expires_at: datetime | None, *, name: str = "", scope: str = "write",
    maker_id: str = "",
) -> tuple[str, Token]:  # fmt: skip
    """Store the digest of a fresh secret; return the secret, and what is known of it."""
    secret = secrets.token_urlsafe(32)
    token = Token(
        digest=digest_of(secret), id=new_id("token"), user_id=user.id, kind=kind, name=name, scope=scope,
        created_at=now(session), expires_at=expires_at, address="", maker_id=maker_id,
    )  # fmt: skip
    session.add(token)
    session.flush()
    return secret, token


def end_of(session: Session, days: int | None) -> datetime | None:
    """Return when a token of so many days ends (None or 0: never)."""
    if days is not None and not 0 <= days <= MAX_TOKEN_DAYS:
        raise InvalidInput.at("days", f"A token is good for 1 to {MAX_TOKEN_DAYS} days, or without end (0); {days} is neither.")
    return now(session) + timedelta(days=days) if days else None


def end_of_maker(session: Session, token_id: str) -> datetime | None:
    """Return when what an API token makes must end; None: never, as where there is no such token."""
    return accounts.get_token(session, token_id)[1].expires_at if token_id else None


def earliest(*ends: datetime | None) -> datetime | None:
    """Return the first of these ends; None is never."""
    return min((end for end in ends if end is not None), default=None)


def check_name(name: str) -> str:
    """Return a token's name as it is kept. Raises InvalidInput when it is too long or has control characters."""
    name = name.strip()
    if len(name) > TOKEN_NAME_LENGTH or not name.isprintable():
        raise InvalidInput.at("name", f"A token's name has at most {TOKEN_NAME_LENGTH} characters, in one line.")
    return name


def describe(user: User, token: Token) -> str:
    """Return what the log says of an API token."""
    end = "without expiry" if token.expires_at is None else f"until {token.expires_at:%Y-%m-%d}"
    return f"“{token.name}” of {user.name}, to {token.scope}, {end}."


def actor_of(user: User, address: str) -> Actor:
    return Actor(user.id, user.role == "admin", user.name, address)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
