"""The live stream of a run's page: the journal after what the page showed first, event by event.

Numbers (step, evaluation, progress) travel as JSON for the charts; every other kind as the HTML of its fragment
`templates/runs/_<kind>.html`, the same that the first paint uses; a state also gives a line of the log. The event's id is
its seq, so a browser that lost the connection goes on where it stood. Where nothing happens a `beat` comes every few seconds, by
which the page knows a quiet run from a server that is silent.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from app.domain.events import EVENT_KINDS, Event
from app.store import runs as store
from app.store.sharing import may_change
from app.store.tables import JournalEntry, Run
from app.web.dependencies import CurrentUser, ReadSession
from app.web.rendering.environment import fragment
from app.web.stream import STREAM_HEADERS, Encoder, as_texts, follow, position, write_entry, write_event

router = APIRouter()

BEAT_SECONDS = 4.0  # a page that has heard nothing for two of them says so (static/run.js)
AS_JSON = frozenset({"step", "evaluation", "progress"})
# What is shown in its own place and as a line of the log.
PARTS = {"state": ("state", "state_line"), "memory": ("memory", "memory_line")}


@dataclass(frozen=True)
class Shown:
    """An event as a fragment sees it. `seq` 0: made from the run's row, not from the journal.

    `may_change`: the page's user may change the run, so that there are buttons for it.
    """

    run_id: str
    seq: int
    at: datetime
    kind: str
    event: Event
    may_change: bool = False

    @classmethod
    def of(cls, event: Event, run: Run, *, may_change: bool) -> Self:
        return cls(run.id, 0, run.created_at, event.model_dump()["kind"], event, may_change)


def show(entry: JournalEntry, *, may_change: bool = False) -> Shown:
    """Return the journal's entry with its typed event."""
    event = EVENT_KINDS[entry.kind].model_validate(entry.payload)
    return Shown(entry.run_id, entry.seq, entry.at, entry.kind, event, may_change)


def find_position(
    request: Request, session: ReadSession, user: CurrentUser, run_id: str, after: Annotated[int, Query(ge=0, le=2**60)] = 0
) -> int:
    """Return where this reader goes on. Raises NotFound before the stream begins."""
    return position(request, store.get_run(session, user.id, run_id).last_seq, after)


def find_encoder(session: ReadSession, user: CurrentUser, run_id: str) -> Encoder:
    """Return how this reader's events are written: with buttons for who may change the run. Raises NotFound."""
    return to_message if may_change(session, user.id, store.get_run(session, user.id, run_id)) else to_seen_message


@router.get("/runs/{run_id}/live", response_class=StreamingResponse)
async def follow_run(
    request: Request, run_id: str, after: Annotated[int, Depends(find_position, scope="function")],
    encoder: Annotated[Encoder, Depends(find_encoder, scope="function")],
) -> StreamingResponse:  # fmt: skip
    entries = follow(request, run_id, after, heartbeat_seconds=BEAT_SECONDS)
    texts = as_texts(entries, encoder, retry_ms=1500, beat=write_event(event="beat", data_str="{}"))
    return StreamingResponse(texts, media_type="text/event-stream", headers=STREAM_HEADERS)


def to_message(entry: JournalEntry) -> str:
    """One entry on its way to the page of who may change the run, as a server-sent event."""
    return _write(entry, show(entry, may_change=True))


def to_seen_message(entry: JournalEntry) -> str:
    """Return the same for the page of who may only see the run."""
    return _write(entry, show(entry))


def _write(entry: JournalEntry, shown: Shown) -> str:
    if entry.kind in AS_JSON:
        data = shown.event.model_dump_json()
    else:
        parts = PARTS.get(entry.kind, (entry.kind,))
        data = "".join(fragment(f"runs/_{part}.html", shown=shown, event=shown.event) for part in parts)
    return write_entry(entry, data)
