"""The life of an account after it was made: disabled, enabled, given another role, signed out everywhere, removed.

Of the administrators who may come in one always stays. What a removed user made stays too; its owner is shown as removed.
"""

from itertools import count

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Forbidden, InvalidInput
from app.domain.run import FINAL_STATES
from app.services import acts, runs
from app.services.accounts import ROLES
from app.services.acts import Actor
from app.store import accounts
from app.store.accounts import state_of
from app.store.database import now
from app.store.tables import Run, User


def require_admin(actor: Actor) -> None:
    """Raises Forbidden for who is no admin."""
    if not actor.is_admin:
        raise Forbidden("Only an admin may look after the accounts of others; yours is on the page Account.")


def find_user(session: Session, actor: Actor, user_id: str) -> User:
    """Return a user for an admin, or oneself. Raises Forbidden, NotFound."""
    if user_id != actor.id:
        require_admin(actor)
    return accounts.get_user_by_id(session, user_id)


def disable(session: Session, actor: Actor, user_id: str) -> User:
    """Let the user in no more: browsers are signed out, API tokens are refused until the account is enabled. Runs go on.

    Raises: Forbidden, NotFound; Conflict for the last admin, or when the user is removed.
    """
    user = _find_there(session, actor, user_id)
    if user.disabled_at is None:
        _keep_an_admin(session, user, "disabled")
        user.disabled_at = now(session)
        accounts.delete_tokens(session, user.id, "session", "login")
        accounts.delete_sign_ins_made(session, user.id)
        acts.record(session, actor, "user_disabled", f"{user.name}.", about=user)
    return user


def enable(session: Session, actor: Actor, user_id: str) -> User:
    """Let a disabled user in again. Raises Forbidden, NotFound; Conflict when the user is removed."""
    user = _find_there(session, actor, user_id)
    if user.disabled_at is not None:
        user.disabled_at = None
        acts.record(session, actor, "user_enabled", f"{user.name}.", about=user)
    return user


def change_role(session: Session, actor: Actor, user_id: str, role: str) -> User:
    """Raises: Forbidden, NotFound, InvalidInput; Conflict for the last admin, or when the user is removed."""
    if role not in ROLES:
        raise InvalidInput.at("role", f'There is no role "{role}"; choose admin or member.')
    user = _find_there(session, actor, user_id)
    if user.role != role:
        if role != "admin":
            _keep_an_admin(session, user, "made a member")
        user.role = role
        acts.record(session, actor, "user_changed", f"{user.name} is now {role}.", about=user)
    return user


def remove(session: Session, actor: Actor, user_id: str) -> None:
    """End the account for good: its sign-ins and tokens end, its runs that have not ended are cancelled, its name is free.

    Data sets, models, runs and their results stay. Raises: Forbidden, NotFound; Conflict for the last admin.
    """
    user = _find_there(session, actor, user_id)
    _keep_an_admin(session, user, "removed")
    living = select(Run.id).where(Run.owner_id == user.id, Run.state.not_in([str(state) for state in FINAL_STATES]))
    run_ids = list(session.scalars(living.order_by(Run.id)))
    for run_id in run_ids:
        runs.request_cancel(session, user.id, run_id)
    accounts.delete_tokens(session, user.id, "session", "login", "api")
    cancelled = f" Runs that were cancelled: {len(run_ids)}." if run_ids else ""
    acts.record(session, actor, "user_removed", f"{user.name}.{cancelled}", about=user)
    user.removed_at = now(session)
    user.name = _name_removed(session, user.name)


def sign_out_everywhere(session: Session, actor: Actor, user_id: str, *, tokens: bool = False) -> int:
    """End the user's browser sessions and login links, with `tokens` also the API tokens; returns how many ended.

    Raises: Forbidden for another's who is no admin, NotFound.
    """
    user = find_user(session, actor, user_id)
    num_ended = accounts.delete_tokens(session, user.id, "session", "login", *(["api"] if tokens else []))
    what = "browsers, login links and tokens" if tokens else "browsers and login links"
    acts.record(session, actor, "signed_out", f"All {what} of {user.name}.", about=user)
    return num_ended


def _find_there(session: Session, actor: Actor, user_id: str) -> User:
    """Return a user that is not removed, for an admin. Raises Forbidden, NotFound, Conflict."""
    require_admin(actor)
    user = accounts.get_user_by_id(session, user_id)
    if state_of(user) == "removed":
        raise Conflict(f"{user.name}: a removed account can't be changed any more; add a user instead.")
    return user


def _keep_an_admin(session: Session, user: User, what: str) -> None:
    """Raises Conflict when no other admin could come in."""
    others = [admin.id for admin in accounts.lock_admins(session) if admin.id != user.id]
    if user.role == "admin" and not others:
        raise Conflict(
            f"{user.name} is the last admin who can come in, and can't be {what}: make somebody else an admin first "
            "(varstudio users role NAME admin)."
        )


def _name_removed(session: Session, name: str) -> str:
    """Return a name that tells of the removal, and that no account can have: the old one is free again."""
    stem = f"{name[:60]} (removed"
    taken = set(session.scalars(select(User.name).where(User.name.startswith(stem, autoescape=True))))
    return next(made for number in count(1) if (made := f"{stem})" if number == 1 else f"{stem} {number})") not in taken)
