"""The log of acts: sign-ins that went well or not, tokens made and ended, and everything that an admin does as one.

Each says who, when, from where and what; none holds a secret. Recorded in the transaction of what it tells of.
"""

import getpass
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.store import accounts
from app.store.database import now
from app.store.tables import Act, User
from app.system.identifiers import new_id

# How the log and its filter call each kind.
KINDS = {
    "signed_in": "Sign-in",
    "sign_in_failed": "Failed sign-in",
    "signed_out": "Sign-out",
    "link_created": "Login link made",
    "token_created": "Token made",
    "token_changed": "Token changed",
    "token_revoked": "Token revoked",
    "user_added": "User added",
    "user_changed": "Role changed",
    "user_disabled": "User disabled",
    "user_enabled": "User enabled",
    "user_removed": "User removed",
    "worker_steered": "Worker steered",
    "endpoint_changed": "Endpoint changed",
    "run_steered": "Run of another user steered",
    "vote_link_made": "Vote link made",
    "vote_link_revoked": "Vote link revoked",
    "thing_changed": "Thing of another user changed",
    "studio_kept": "Backup, restore or pruning",
}
TEXT_LENGTH = 500
NAME_LENGTH, ADDRESS_LENGTH = 120, 64
MAX_FAILED = 50_000  # strangers must not fill the database: of failed sign-ins only the newest are kept


class Actor(NamedTuple):
    """Who acts: owners for their own, admins for all. Without an id: no user, but somebody at the server.

    Who acts by an API token, or by a session that began with one, makes nothing that lets somebody in for longer than that lasts.
    """

    id: str
    is_admin: bool
    name: str = ""
    address: str = ""
    token_id: str = ""  # that API token; empty: none


STUDIO = Actor("", is_admin=True, name="the studio")


def at_the_server() -> Actor:
    """Return who types a command on the server's own machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "somebody"
    return Actor("", is_admin=True, name=f"{name} on the server", address="command line")


def record(session: Session, actor: Actor, kind: str, text: str, *, about: User | None = None) -> None:
    """Write into the log what `actor` does, in this transaction; `about` is whose account it concerns."""
    name = actor.name or accounts.find_name(session, actor.id)
    session.add(
        Act(
            id=new_id("act"), at=now(session), kind=kind, actor_id=actor.id or None, actor=name[:NAME_LENGTH],
            address=actor.address[:ADDRESS_LENGTH], user_id=None if about is None else about.id, text=text[:TEXT_LENGTH],
        )
    )  # fmt: skip


def forget_old(session: Session, days: float) -> int:
    """Remove acts older than so many days (0: none is too old), and failed sign-ins beyond the newest; returns how many."""
    num_old = accounts.delete_acts(session, now(session) - timedelta(days=days)) if days else 0
    return num_old + accounts.trim_acts(session, "sign_in_failed", keep=MAX_FAILED)
