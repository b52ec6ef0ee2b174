"""Previews as kept: a queue of requests for the workers, and the answers, which are given again at once.

Each is of a scoring, or of a model and perhaps a data set (a reading).
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.tables import Preview, Scoring

WAITING, COMPUTING, DONE, FAILED = "waiting", "computing", "done", "failed"


def get(session: Session, owner_id: str, preview_id: str) -> Preview:
    """Return a preview of one of the owner's scorings. Raises NotFound."""
    preview = session.get(Preview, preview_id)
    scoring = session.get(Scoring, preview.scoring_id) if preview and preview.scoring_id else None
    if preview is None or scoring is None or scoring.owner_id != owner_id:
        raise NotFound(f"There is no preview {preview_id!r}.")
    return preview


def find(session: Session, subject_id: str, digest: str) -> Preview | None:
    """Return the preview of this request, of a scoring or of a model, that was asked for before."""
    return session.scalar(select(Preview).where(_is_of(subject_id), Preview.digest == digest))


def _is_of(subject_id: str) -> ColumnElement[bool]:
    return or_(Preview.scoring_id == subject_id, Preview.model_id == subject_id)


def queue(session: Session, asked: Preview, keep: int) -> Preview:
    """Return the preview of this request: the kept answer, or a place in the queue, at which the workers are hinted.

    One that failed is computed anew. Of the subject's answers the newest `keep` stay.
    """
    subject_id = asked.scoring_id or asked.model_id or ""
    preview = find(session, subject_id, asked.digest)
    if preview is None:
        preview = _add(session, asked, subject_id, keep)
    elif preview.state == FAILED:
        preview.state, preview.error, preview.created_at, preview.finished_at = WAITING, None, asked.created_at, None
    if preview.state == WAITING:
        session.info["hints"].send_after_commit(session, preview.id)
    return preview


def _add(session: Session, preview: Preview, subject_id: str, keep: int) -> Preview:
    for old in list_old(session, subject_id, keep - 1):
        session.delete(old)
    try:
        with session.begin_nested():
            session.add(preview)
    except IntegrityError:  # somebody else asked the same at the same moment
        known = find(session, subject_id, preview.digest)
        if known is None:
            raise
        return known
    return preview


def is_claimable(at: datetime) -> ColumnElement[bool]:
    """Return whether a worker may take it: nobody computes it, or not any more."""
    lost = and_(Preview.state == COMPUTING, Preview.lease_expires_at < at)
    return or_(Preview.state == WAITING, lost)


def claimable(at: datetime) -> Select[str]:
    """Return the ids of the previews that a worker may take, longest waiting first."""
    return select(Preview.id).where(is_claimable(at)).order_by(Preview.created_at, Preview.id)


def has_claimable(session: Session, at: datetime) -> bool:
    return session.scalar(claimable(at).limit(1)) is not None


def list_old(session: Session, subject_id: str, keep: int) -> list[Preview]:
    """Return the answered previews of a scoring or a model but the newest `keep`."""
    query = select(Preview).where(_is_of(subject_id), Preview.state.in_([DONE, FAILED]))
    return list(session.scalars(query.order_by(Preview.id.desc()).offset(keep)))
