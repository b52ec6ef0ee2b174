"""Previews as kept: a queue of requests for the workers, and the answers, which are given again at once.

Each is of a scoring, or of a model and perhaps a data set (a reading), and is seen by whoever may see that. Those who ask take
turns: next is who has the fewest being computed, then who was answered least recently.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput, NotFound, TooManyRequests
from app.store.database import add_once
from app.store.sharing import find_visible
from app.store.tables import Preview, Scoring

WAITING, COMPUTING, DONE, FAILED = "waiting", "computing", "done", "failed"
MOST_WAITING = 100  # that one user has asked for
REFUSED_FOR = timedelta(seconds=30)


def get(session: Session, user_id: str, preview_id: str) -> Preview:
    """Return a preview of a scoring that the user may see. Raises NotFound."""
    preview = session.get(Preview, preview_id)
    if preview is None or not preview.scoring_id or find_visible(session, Scoring, user_id, preview.scoring_id) is None:
        raise NotFound(f"There is no preview {preview_id!r}.")
    return preview


def find(session: Session, subject_id: str, digest: str) -> Preview | None:
    """Return the preview of this request, of a scoring or of a model, that was asked for before."""
    return session.scalar(select(Preview).where(_is_of(subject_id), Preview.digest == digest))


def _is_of(subject_id: str) -> ColumnElement[bool]:
    return or_(Preview.scoring_id == subject_id, Preview.model_id == subject_id)


def queue(session: Session, asked: Preview, keep: int) -> Preview:
    """Return the preview of this request: the kept answer, or a place in the queue, at which the workers are hinted.

    One that failed is computed anew; one that was refused, only after a while, so that a page that asks again every few seconds
    hears of it. Of the subject's answers the newest `keep` stay. Raises TooManyRequests when as many of
    the asker's wait as may.
    """
    subject_id = asked.scoring_id or asked.model_id or ""
    preview = find(session, subject_id, asked.digest)
    if preview is not None and _is_refused(preview, asked.created_at):
        return preview
    if (preview is None or preview.state == FAILED) and count_waiting(session, asked.asker_id) >= MOST_WAITING:
        raise TooManyRequests(
            f"{MOST_WAITING} of your previews wait already: let some of them come first.", retry_after_seconds=10
        )
    if preview is None:
        preview = _add(session, asked, subject_id, keep)
    elif preview.state == FAILED:
        preview.state, preview.error, preview.created_at, preview.finished_at = WAITING, None, asked.created_at, None
        preview.asker_id = asked.asker_id
    if preview.state == WAITING:
        session.info["hints"].send_after_commit(session, preview.id)
    return preview


def _is_refused(preview: Preview, at: datetime) -> bool:
    is_refused = preview.state == FAILED and (preview.error or {}).get("code") == InvalidInput("").code
    return is_refused and preview.finished_at is not None and at - preview.finished_at < REFUSED_FOR


def _add(session: Session, preview: Preview, subject_id: str, keep: int) -> Preview:
    for old in list_old(session, subject_id, keep - 1):
        session.delete(old)
    return add_once(session, preview, lambda: find(session, subject_id, preview.digest))


def is_claimable(at: datetime) -> ColumnElement[bool]:
    """Return whether a worker may take it: nobody computes it, or not any more."""
    lost = and_(Preview.state == COMPUTING, Preview.lease_expires_at < at)
    return or_(Preview.state == WAITING, lost)


def first_in_line(at: datetime) -> Select[str]:
    """Return the id of the preview that is next, locked; one that another worker is just taking is passed over."""
    is_computed = and_(Preview.state == COMPUTING, Preview.lease_expires_at >= at)
    query = select(Preview.asker_id, func.sum(case((is_computed, 1), else_=0)).label("num"))
    query = query.add_columns(func.max(Preview.finished_at).label("answered_at"))
    askers = query.group_by(Preview.asker_id).subquery("askers")
    line = select(Preview.id).join(askers, askers.c.asker_id == Preview.asker_id).where(is_claimable(at))
    line = line.order_by(askers.c.num, askers.c.answered_at.asc().nulls_first(), Preview.created_at, Preview.id)
    return line.limit(1).with_for_update(skip_locked=True, of=Preview)


def has_claimable(session: Session, at: datetime) -> bool:
    return session.scalar(select(Preview.id).where(is_claimable(at)).limit(1)) is not None


def is_held(session: Session, preview_id: str, worker_id: str) -> bool:
    """Return whether this worker still has the preview; not so when what it is of was deleted."""
    mine = (Preview.id == preview_id, Preview.worker_id == worker_id, Preview.state == COMPUTING)
    return session.scalar(select(Preview.id).where(*mine)) is not None


def count_waiting(session: Session, user_id: str) -> int:
    """Return how many previews that a user has asked for wait to be computed."""
    waiting = (Preview.state == WAITING, Preview.asker_id == user_id)
    return session.scalar(select(func.count(Preview.id)).where(*waiting)) or 0


def list_old(session: Session, subject_id: str, keep: int) -> list[Preview]:
    """Return the answered previews of a scoring or a model but the newest `keep`."""
    query = select(Preview).where(_is_of(subject_id), Preview.state.in_([DONE, FAILED]))
    return list(session.scalars(query.order_by(Preview.id.desc()).offset(keep)))
