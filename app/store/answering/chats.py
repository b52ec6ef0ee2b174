"""Chats as kept: a queue for the workers, what each has told, and the chats of one user.

Users take turns: next is who has the fewest being answered, then who was answered least recently.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from app.domain.answering.chat import Answered, Begun, ChatEvent, Ended, GivenBack, Spoken, parse_event
from app.domain.errors import NotFound
from app.domain.texts import make_keepable
from app.store import queue
from app.store.database import now
from app.store.tables import Chat, ChatEntry

WAITING, ANSWERING, DONE, STOPPED, FAILED = "waiting", "answering", "done", "stopped", "failed"
FINAL_STATES = (DONE, STOPPED, FAILED)


def get_chat(session: Session, owner_id: str, chat_id: str, *, anew: bool = False) -> Chat:
    """Return the owner's chat, with `anew` as it is by now. Raises NotFound, for somebody else's too: nobody else sees a chat."""
    chat = session.get(Chat, chat_id, populate_existing=anew)
    if chat is None or chat.owner_id != owner_id:
        raise NotFound(f"There is no chat {chat_id!r}; old ones are removed after some days.")
    return chat


def list_chats(session: Session, owner_id: str, *, after: str | None = None, limit: int = 50) -> list[Chat]:
    """Return the owner's chats, newest first; `after` is the id of the last one of the page before."""
    query = select(Chat).where(Chat.owner_id == owner_id)
    if after is not None:
        query = query.where(Chat.id < after)
    return list(session.scalars(query.order_by(Chat.id.desc()).limit(limit)))


def read_entries(session: Session, chat_id: str, after: int = 0, limit: int | None = None) -> list[ChatEntry]:
    """Return what was told of the chat after seq `after`, in order."""
    query = select(ChatEntry).where(ChatEntry.chat_id == chat_id, ChatEntry.seq > after).order_by(ChatEntry.seq)
    return list(session.scalars(query if limit is None else query.limit(limit)))


def read_events(entries: Sequence[ChatEntry]) -> list[ChatEvent]:
    """Return the entries as what they tell."""
    return [parse_event({"kind": entry.kind, **entry.payload}) for entry in entries]


def append(session: Session, chat_id: str, events: Sequence[ChatEvent], *fence: ColumnElement[bool], **values: Any) -> bool:
    """Tell events of the chat, with `values` for its row, where the `fence` holds; False where it doesn't, or the chat is gone.

    The bell rings after the commit. Pieces of an answer go once its whole is told.
    """
    whole = {event.model for event in events if isinstance(event, Answered)}
    events = [event for event in events if not (isinstance(event, Spoken) and event.model in whole)]
    statement = update(Chat).where(Chat.id == chat_id, *fence).values(last_seq=Chat.last_seq + len(events), **values)
    returning = statement.returning(Chat.last_seq).execution_options(synchronize_session=False)
    last_seq = session.execute(returning).scalar_one_or_none()
    if last_seq is None:
        return False
    _forget_pieces(session, chat_id, events)
    first, at = last_seq - len(events) + 1, now(session)
    rows = [
        {"chat_id": chat_id, "seq": first + place, "kind": event.kind, "payload": _to_payload(event), "at": at}
        for place, event in enumerate(events)
    ]
    if rows:
        session.execute(insert(ChatEntry), rows)
    session.info["bell"].ring_after_commit(session, chat_id)
    return True


def _to_payload(event: ChatEvent) -> dict[str, Any]:
    payload: dict[str, Any] = make_keepable(event.model_dump(mode="json", exclude={"kind"}))
    return payload


def _forget_pieces(session: Session, chat_id: str, events: Sequence[ChatEvent]) -> None:
    """Remove what the events stand for: all that was said in vain, the pieces of whole answers, and at the end how it began."""
    known = delete(ChatEntry).where(ChatEntry.chat_id == chat_id)
    if any(isinstance(event, Begun | GivenBack) for event in events):
        session.execute(known)
    if any(isinstance(event, Ended) for event in events):
        session.execute(known.where(ChatEntry.kind == "loading"))
    if whole := [event.model for event in events if isinstance(event, Answered)]:
        session.execute(known.where(ChatEntry.kind == "spoken", ChatEntry.payload["model"].as_integer().in_(whole)))


def is_held(chat_id: str, token: int) -> ColumnElement[bool]:
    """Return whether the claim with this token still holds."""
    return and_(Chat.id == chat_id, Chat.token == token, Chat.state == ANSWERING)


def is_claimable(at: datetime) -> ColumnElement[bool]:
    """Return whether a worker may take it: nobody answers it, or not any more."""
    return or_(Chat.state == WAITING, and_(Chat.state == ANSWERING, Chat.lease_expires_at < at))


def first_in_line(at: datetime, worker_id: str) -> Select[str]:
    """Return the id of the chat that is next, locked; one that another worker is just taking is passed over."""
    is_answered = and_(Chat.state == ANSWERING, Chat.lease_expires_at >= at)
    numbers = select(Chat.owner_id, func.sum(case((is_answered, 1), else_=0)).label("num"))
    owners = numbers.add_columns(func.max(Chat.finished_at).label("answered_at")).group_by(Chat.owner_id).subquery("owners")
    line = select(Chat.id).join(owners, owners.c.owner_id == Chat.owner_id)
    line = line.where(is_claimable(at), queue.is_working(worker_id))
    line = line.order_by(owners.c.num, owners.c.answered_at.asc().nulls_first(), Chat.created_at, Chat.id)
    return line.limit(1).with_for_update(skip_locked=True, of=Chat)


def has_claimable(session: Session, at: datetime, worker_id: str) -> bool:
    return session.scalar(select(Chat.id).where(is_claimable(at), queue.is_working(worker_id)).limit(1)) is not None


def count_unanswered(session: Session, owner_id: str | None = None, *, before: Chat | None = None) -> int:
    """Return how many chats wait or are being answered: all, of one owner, or those that were asked before another."""
    query = select(func.count()).where(Chat.state.in_([WAITING, ANSWERING]))
    if owner_id is not None:
        query = query.where(Chat.owner_id == owner_id)
    if before is not None:
        query = query.where(Chat.id < before.id)
    return session.scalar(query) or 0


def delete_old(session: Session, before: datetime) -> int:
    """Remove the chats that ended before this moment; returns how many."""
    gone = delete(Chat).where(Chat.state.in_(FINAL_STATES), Chat.finished_at < before).returning(Chat.id)
    return len(session.execute(gone.execution_options(synchronize_session=False)).all())
