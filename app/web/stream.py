"""The live stream of a run: the journal from where a reader stands, then each new entry, until the run's final state.

Readers that stand at the same place share one read of the database, so many viewers cost little more than one. A reader
holds at most one batch: the next is read only when the last has been sent, so one that stops reading costs no memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.domain.run import RunState
from app.store import journal
from app.store.bell import Bell
from app.store.database import Database
from app.store.tables import JournalEntry, Run

BATCH = 200
HEARTBEAT_SECONDS = 15.0
STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


@dataclass(frozen=True)
class Batch:
    entries: list[JournalEntry]
    finished: bool  # the run is in a final state and nothing comes after these entries


@dataclass
class SharedReads:
    """One read of the journal per place in it, however many ask at the same moment."""

    database: Database
    under_way: dict[tuple[str, int], asyncio.Task[Batch]] = field(default_factory=dict)

    async def read(self, run_id: str, after: int) -> Batch:
        key = (run_id, after)
        task = self.under_way.get(key)
        if task is None:
            task = asyncio.create_task(self.read_apart(run_id, after))
            self.under_way[key] = task
            task.add_done_callback(lambda _: self.under_way.pop(key, None))
        return await asyncio.shield(task)  # one reader's leaving doesn't end the others' read

    async def read_apart(self, run_id: str, after: int) -> Batch:
        return await run_in_threadpool(read_batch, self.database, run_id, after)


def read_batch(database: Database, run_id: str, after: int) -> Batch:
    with database.reading() as session:
        run = session.get(Run, run_id)
        if run is None:
            return Batch([], finished=True)
        entries = journal.read(session, run_id, after=after, limit=BATCH)
        last = entries[-1].seq if entries else after
        return Batch(entries, finished=RunState(run.state).final and last >= run.last_seq)


async def follow(request: Request, run_id: str, after: int) -> AsyncIterator[list[JournalEntry]]:
    """Batches of journal entries with seq > `after`, in order, without gaps; an empty one is a heartbeat.

    Ends after the final state of the run has been given, when the run is deleted, or when the reader is gone.
    """
    reads: SharedReads = request.app.state.shared_reads
    bell: Bell = request.app.state.bell
    while True:
        batch = await reads.read(run_id, after)
        if batch.entries:
            after = batch.entries[-1].seq
            yield batch.entries
        if batch.finished:
            return
        if len(batch.entries) < BATCH and not await bell.wait(run_id, after, HEARTBEAT_SECONDS):
            yield []
        if await request.is_disconnected():
            return


async def as_events(batches: AsyncIterator[list[JournalEntry]]) -> AsyncIterator[str]:
    """Server-sent events of JSON: id = seq, event = kind; `event: end` tells the reader not to come back."""
    yield "retry: 2000\n\n"
    async for entries in batches:
        yield "".join(to_event(entry) for entry in entries) or ": still here\n\n"
    yield "event: end\ndata: {}\n\n"


def to_event(entry: JournalEntry) -> str:
    data = {"seq": entry.seq, "kind": entry.kind, "at": entry.at.isoformat(), "payload": entry.payload}
    return f"id: {entry.seq}\nevent: {entry.kind}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


def position(request: Request, last_seq: int, after: int = 0) -> int:
    """Where a reader stands: its Last-Event-ID, else `after`. What can't be a seq of this run means a full replay."""
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return after if 0 <= after <= last_seq else 0
    if len(text) > 18 or not (text.isascii() and text.isdecimal()):
        return 0
    return int(text) if int(text) <= last_seq else 0
