"""Previews as kept: a queue of requests for the workers, and the answers, which are given again at once."""

from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.tables import Preview, Scoring

WAITING, COMPUTING, DONE, FAILED = "waiting", "computing", "done", "failed"


def get(session: Session, owner_id: str, preview_id: str) -> Preview:
    """Return a preview of one of the owner's scorings. Raises NotFound."""
    preview = session.get(Preview, preview_id)
    scoring = session.get(Scoring, preview.scoring_id) if preview else None
    if preview is None or scoring is None or scoring.owner_id != owner_id:
        raise NotFound(f"There is no preview {preview_id!r}.")
    return preview


def find(session: Session, scoring_id: str, digest: str) -> Preview | None:
    """Return the preview of this request that was asked for before."""
    return session.scalar(select(Preview).where(Preview.scoring_id == scoring_id, Preview.digest == digest))


def is_claimable(at: datetime) -> ColumnElement[bool]:
    """Return whether a worker may take it: nobody computes it, or not any more."""
    lost = and_(Preview.state == COMPUTING, Preview.lease_expires_at < at)
    return or_(Preview.state == WAITING, lost)


def claimable(at: datetime) -> Select[str]:
    """Return the ids of the previews that a worker may take, longest waiting first."""
    return select(Preview.id).where(is_claimable(at)).order_by(Preview.created_at, Preview.id)


def has_claimable(session: Session, at: datetime) -> bool:
    return session.scalar(claimable(at).limit(1)) is not None


def list_old(session: Session, scoring_id: str, keep: int) -> list[Preview]:
    """Return the answered previews of a scoring but the newest `keep`."""
    query = select(Preview).where(Preview.scoring_id == scoring_id, Preview.state.in_([DONE, FAILED]))
    return list(session.scalars(query.order_by(Preview.id.desc()).offset(keep)))
