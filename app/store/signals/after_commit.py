"""What leaves only after the commit: bells, hints, removals of files. Nothing leaves when the transaction is rolled back."""

import logging
from collections.abc import Callable, Hashable

from sqlalchemy.orm import Session

KEY = "after_commit"
log = logging.getLogger(__name__)


def after_commit(session: Session, key: Hashable, action: Callable[[], None]) -> None:
    """Do `action` once the session's transaction is committed; a second action of the same key replaces the first."""
    session.info.setdefault(KEY, {})[key] = action


def run_after_commit(session: Session) -> None:
    """Do what was asked for. The commit stands, so a failing action is logged and the others still run."""
    for key, action in session.info.pop(KEY, {}).items():
        try:
            action()
        except Exception:
            log.exception("after the commit, %s failed", key)
