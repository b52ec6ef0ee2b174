"""The live stream of a run or a chat: its entries from where a reader stands, then each new one, until its final state.

Readers that stand at the same place share one read of the database and one text of what was read, so many viewers cost
little more than one. A reader holds at most one batch: the next is read only when the last has been sent, so one that stops
reading costs no memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.sse import format_sse_event
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.domain.run import RunState
from app.services.answering import chats as chat_service
from app.store import journal
from app.store.answering import chats
from app.store.database import Database
from app.store.sharing import NOBODY, find_visible
from app.store.signals.bell import Bell
from app.store.tables import Chat, ChatEntry, JournalEntry, Run
from app.web.dependencies import read_apart

BATCH = 200
FEW = 10  # entries that are encoded in a moment, also where their text is HTML
HEARTBEAT_SECONDS = 15.0
KEPT_SECONDS = 0.2
LOOK_SECONDS = 1.0  # how often what it waits for is looked at
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def write_event(**parts: Any) -> str:
    return format_sse_event(**parts).decode()


HIDDEN = "This run has been made private while you watched: only its owner and admins see it from here on."
STILL_HERE = write_event(comment="still here")
Entry = JournalEntry | ChatEntry
Encoder = Callable[[Any], str]


@dataclass(frozen=True)
class Entries:
    """Entries that follow each other, shared by all readers that stand before them."""

    entries: Sequence[Entry]
    finished: bool  # the run or chat is in a final state and nothing comes after these entries
    is_open: bool = True  # all members may see the run; whose chat it is was asked before
    is_hidden: bool = False  # from the reader: the run has become private to others
    texts: dict[Encoder, asyncio.Future[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    async def encode(self, to_text: Encoder) -> str:
        """Return the entries as one text, encoded once however many readers ask; many entries in a thread."""
        if to_text not in self.texts:
            self.texts[to_text] = asyncio.ensure_future(self._write(to_text))
        return await asyncio.shield(self.texts[to_text])

    async def _write(self, to_text: Encoder) -> str:
        join = partial("".join, map(to_text, self.entries))
        return await run_in_threadpool(join) if len(self.entries) > FEW else join()


@dataclass
class SharedReads:
    """One read of the journal per place in it, however many ask at about the same moment.

    What was read of a run stays for a blink, for readers that were still sending: its entries never change. That there was
    nothing new is forgotten at once, and so is what was read of a chat, whose pieces go when the whole is told.
    """

    database: Database
    under_way: dict[tuple[str, int], asyncio.Task[Entries]] = field(default_factory=dict)

    async def read(self, run_id: str, after: int) -> Entries:
        key = (run_id, after)
        task = self.under_way.get(key)
        if task is None:
            task = asyncio.create_task(self.read_apart(run_id, after))
            self.under_way[key] = task
            task.add_done_callback(
                lambda done: self.forget(key, KEPT_SECONDS if holds_entries(done) and not is_chat(run_id) else 0)
            )
        return await asyncio.shield(task)  # one reader's leaving doesn't end the others' read

    def forget(self, key: tuple[str, int], seconds: float) -> None:
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.under_way.pop, key, None)
        else:
            self.under_way.pop(key, None)

    async def read_apart(self, run_id: str, after: int) -> Entries:
        return await run_in_threadpool(read_batch, self.database, run_id, after)


def is_chat(key: str) -> bool:
    """Return whether this is a chat's id, not a run's."""
    return key.startswith("chat_")


def holds_entries(done: asyncio.Task[Entries]) -> bool:
    return not done.cancelled() and done.exception() is None and bool(done.result().entries)


def read_batch(database: Database, run_id: str, after: int) -> Entries:
    with database.reading() as session:
        if is_chat(run_id):
            return read_chat(session, run_id, after)
        run = session.get(Run, run_id)
        if run is None:
            return Entries([], finished=True)
        entries = journal.read(session, run_id, after=after, limit=BATCH)
        last = entries[-1].seq if entries else after
        finished = RunState(run.state).final and last >= run.last_seq
        return Entries(entries, finished, is_open=find_visible(session, Run, NOBODY, run_id) is not None)


def may_see(database: Database, user_id: str, run_id: str) -> bool:
    with database.reading() as session:
        return find_visible(session, Run, user_id, run_id) is not None


def read_chat(session: Session, chat_id: str, after: int) -> Entries:
    chat = session.get(Chat, chat_id)
    if chat is None:
        return Entries([], finished=True)
    entries = chats.read_entries(session, chat_id, after, BATCH)
    last = entries[-1].seq if entries else after
    return Entries(entries, finished=chat.state in chats.FINAL_STATES and last >= chat.last_seq)


async def follow(request: Request, run_id: str, after: int, *, heartbeat_seconds: float | None = None) -> AsyncIterator[Entries]:
    """Batches of entries with seq > `after`, in order, of a run without gaps; an empty one is a heartbeat.

    Ends after the final state has been given, when the run or chat is deleted, when the run becomes private to others, or when
    the reader is gone.
    """
    reads: SharedReads = request.app.state.shared_reads
    user_id: str = request.state.user.id
    bell: Bell = request.app.state.bell
    while True:
        batch = await reads.read(run_id, after)
        if not batch.is_open and not await run_in_threadpool(may_see, reads.database, user_id, run_id):
            yield Entries([], finished=True, is_hidden=True)
            return
        if batch.entries:
            after = batch.entries[-1].seq
            yield batch
        if batch.finished:
            return
        if len(batch.entries) < BATCH and not await bell.wait(run_id, after, heartbeat_seconds or HEARTBEAT_SECONDS):
            yield Entries([], finished=False)
        if await request.is_disconnected():
            return


async def as_events(batches: AsyncIterator[Entries]) -> AsyncIterator[str]:
    """Server-sent events of JSON: id = seq, event = kind; `event: end` tells the reader not to come back."""
    async for text in as_texts(batches, to_event, retry_ms=2000):
        yield text


async def as_texts(
    batches: AsyncIterator[Entries], to_text: Encoder, *, retry_ms: int, beat: str = STILL_HERE
) -> AsyncIterator[str]:
    """Server-sent events as `to_text` writes them, a `beat` where nothing happens, and the end; with a reason if early."""
    yield write_event(retry=retry_ms)
    end: dict[str, str] = {}
    async for batch in batches:
        if batch.is_hidden:
            end = {"detail": HIDDEN}
        else:
            yield await batch.encode(to_text) or beat
    yield write_event(data_str=json.dumps(end, ensure_ascii=False), event="end")


def to_event(entry: Entry) -> str:
    data = {"seq": entry.seq, "kind": entry.kind, "at": entry.at.isoformat(), "payload": entry.payload}
    return write_entry(entry, json.dumps(data, ensure_ascii=False, allow_nan=False))


def write_entry(entry: Entry, data: str) -> str:
    """Return the entry as an event on its way to a reader: its seq is the id, its kind the event."""
    return write_event(data_str=data, event=entry.kind, id=str(entry.seq))


def position(request: Request, last_seq: int, after: int = 0) -> int:
    """Return where a reader stands: its Last-Event-ID, else `after`. What can't be a seq of this run means a full replay."""
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return after if 0 <= after <= last_seq else 0
    if len(text) > 18 or not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if int(text) <= last_seq else 0


async def follow_chat(request: Request, chat_id: str, after: int) -> AsyncIterator[str]:
    """Server-sent events of a chat after seq `after`: id = seq, event = kind; `waiting` has no id, `end` is the last."""
    database: Database = request.app.state.database
    wait = await read_apart(request, look_at_wait, database, chat_id)
    yield write_event(retry=1500)
    yield write_waiting(wait)
    async for batch in follow(request, chat_id, after, heartbeat_seconds=LOOK_SECONDS):
        if batch.entries:
            yield await batch.encode(to_event)
            continue
        known, wait = wait, await read_apart(request, look_at_wait, database, chat_id)
        yield write_waiting(wait) if wait != known else STILL_HERE
    yield write_event(data_str="{}", event="end")


def write_waiting(detail: str) -> str:
    return write_event(event="waiting", data_str=json.dumps({"detail": detail}, ensure_ascii=False))


def look_at_wait(database: Database, chat_id: str) -> str:
    """Return what the chat waits for, as a sentence; empty when it doesn't, or is gone."""
    with database.reading() as session:
        chat = session.get(Chat, chat_id)
        return chat_service.describe_wait(session, chat) if chat is not None else ""
