"""REST: what a run has recorded. Its journal, as a list and live; metric series, weights, samples, findings, log, artifacts."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.domain.errors import InvalidInput, NotFound
from app.domain.events import EVENT_KINDS
from app.domain.metrics import CATALOGUE
from app.domain.run import RunState
from app.store import journal, metrics
from app.store import runs as store
from app.store.tables import JournalEntry
from app.web import run_log
from app.web.api.paging import AfterSeq
from app.web.archives import as_zip
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession
from app.web.stream import STREAM_HEADERS, as_events, follow, position

router = APIRouter(prefix="/runs/{run_id}", tags=["records"])

MAX_ARTIFACTS = 10_000
Step = Annotated[int | None, Query(ge=0, le=2**31 - 1)]


class EventView(BaseModel):
    """One entry of a run's journal. The payload's fields depend on the kind."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="Dense per run, from 1.")
    kind: str = Field(examples=["step"])
    at: datetime
    payload: dict[str, Any]


class Events(BaseModel):
    items: list[EventView]
    last_seq: int = Field(description="The newest seq of the run; pass the last item's seq as `after` until you have it.")


class SeriesView(BaseModel):
    title: str
    unit: str
    better: str | None
    points: list[tuple[int, float | None]] = Field(description="[step, value]; null where the value wasn't finite.")


class WeightRow(BaseModel):
    """One response of a batch."""

    model_config = ConfigDict(extra="allow")

    example_id: int
    response: int = Field(description="Its number within the example; −1, −2, … are draws of the reference.")
    preference: int | None
    num_tokens: int
    logprob_ref: float | None = Field(description="Summed log π_ref(y|x).")
    reward: float | None
    weight: float | None


class Weights(BaseModel):
    batch: int
    items: list[WeightRow]


class Samples(BaseModel):
    steps: list[int] = Field(description="The steps at which samples were drawn.")
    step: int | None
    items: list[EventView]


class ArtifactView(BaseModel):
    name: str = Field(examples=["model/config.json"])
    title: str
    size_bytes: int
    sha256: str
    url: str


@router.get("/events", operation_id="list_events", summary="Read a run's journal")
def list_events(
    session: ReadSession,
    user: CurrentUser,
    run_id: str,
    after: AfterSeq = 0,
    limit: Annotated[int, Query(ge=1, le=2000)] = 500,
    kinds: Annotated[str, Query(max_length=400, description="Comma-separated; empty: all.", examples=["state,finding"])] = "",
) -> Events:
    """Everything that happened, in order, after `after`.

    Nothing is ever taken out. An attempt that goes on from a checkpoint begins with a `resume` event, which names its step;
    the steps after it are then recorded once more. What comes after the newest `resume` counts: metric series hold only that."""
    run = store.get_run(session, user.id, run_id)
    wanted = [kind for kind in kinds.split(",") if kind]
    unknown = [kind for kind in wanted if kind not in EVENT_KINDS]
    if unknown:
        raise InvalidInput.at("kinds", f'There is no kind of event "{unknown[0]}"; there are {", ".join(EVENT_KINDS)}.')
    entries = journal.read(session, run_id, after=after, limit=limit, kinds=wanted or None)
    return Events(items=[EventView.model_validate(entry) for entry in entries], last_seq=run.last_seq)


def find_start(request: Request, session: ReadSession, user: CurrentUser, run_id: str, after: AfterSeq = 0) -> int | None:
    """Return the seq after which this reader goes on; None when the run has ended and it has seen all."""
    run = store.get_run(session, user.id, run_id)
    start = position(request, run.last_seq, after)
    return None if RunState(run.state).final and start >= run.last_seq else start


@router.get(
    "/stream",
    operation_id="stream_events",
    summary="Follow a run live",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, 204: {"description": "The run has ended and you have seen it all."}},
)
async def stream_events(
    request: Request, run_id: str, start: Annotated[int | None, Depends(find_start, scope="function")]
) -> Response:
    """Server-sent events: id = seq, event = kind, data = the entry as JSON. It goes on where `Last-Event-ID` says, and closes
    with `event: end` after the run's final state."""
    if start is None:
        return Response(status_code=204)  # a browser's EventSource doesn't come back after it
    events = as_events(follow(request, run_id, start))
    return StreamingResponse(events, media_type="text/event-stream", headers=STREAM_HEADERS)


@router.get("/metrics", operation_id="get_metrics", summary="Read metric series")
def get_metrics(
    session: ReadSession,
    user: CurrentUser,
    run_id: str,
    keys: Annotated[str, Query(max_length=4000, description="Comma-separated; empty: all.", examples=["loss,weight/ess"])] = "",
    points: Annotated[int, Query(ge=2, le=5000, description="A longer series is thinned out; peaks stay.")] = 500,
) -> dict[str, SeriesView]:
    """Series by key, with what the key means."""
    store.get_run(session, user.id, run_id)
    wanted = [key for key in keys.split(",") if key] or metrics.metric_keys(session, run_id)
    unknown = [key for key in wanted if key not in CATALOGUE]
    if unknown:
        raise InvalidInput.at("keys", f'There is no metric "{unknown[0][:80]}"; there are {", ".join(sorted(CATALOGUE))}.')
    series = metrics.list_metrics(session, run_id, wanted, points=points)
    return {key: describe(key, values) for key, values in series.items()}


def describe(key: str, points: list[tuple[int, float | None]]) -> SeriesView:
    metric = CATALOGUE[key]
    return SeriesView(title=metric.title, unit=metric.unit, better=metric.better, points=points)


@router.get("/weights", operation_id="get_weights", summary="Read the weights of one batch")
def get_weights(
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    run_id: str,
    step: Step = None,
    batch: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Instead of a step: a batch of the plan.")] = None,
) -> Weights:
    """Each response of the batch: example, tokens, log π_ref, reward, weight. Without a step: the newest."""
    store.get_run(session, user.id, run_id)
    if batch is None:
        entry = journal.latest(session, run_id, "step") if step is None else journal.find_step(session, run_id, step)
        if entry is None:
            raise NotFound(
                "This run hasn't logged that step (yet)." if step is not None else "This run hasn't logged a step yet."
            )
        batch = int(entry.payload["batch"])
    rows = store.read_weights(files, run_id, batch)
    if not rows:
        raise NotFound(f"There is no batch {batch} in this run's plan.")
    return Weights(batch=batch, items=[WeightRow(**row) for row in rows])


@router.get("/samples", operation_id="list_samples", summary="Read side-by-side generations")
def list_samples(session: ReadSession, user: CurrentUser, run_id: str, step: Step = None) -> Samples:
    """The reference's and the policy's answers to the same held-out prompts. Without a step: the newest."""
    store.get_run(session, user.id, run_id)
    steps = journal.list_sample_steps(session, run_id)
    chosen = step if step is not None else (steps[-1] if steps else None)
    entries = [] if chosen is None else journal.list_samples(session, run_id, chosen)
    return Samples(steps=steps, step=chosen, items=[EventView.model_validate(entry) for entry in entries])


@router.get("/findings", operation_id="list_findings", summary="Read a run's findings")
def list_findings(session: ReadSession, user: CurrentUser, run_id: str, after: AfterSeq = 0) -> Events:
    """Signatures of degenerate weights or data: what was seen, the evidence, the remedy."""
    run = store.get_run(session, user.id, run_id)
    entries = journal.read(session, run_id, after=after, limit=500, kinds=["finding"])
    return Events(items=[EventView.model_validate(entry) for entry in entries], last_seq=run.last_seq)


@router.get("/log", operation_id="read_log", summary="Read a run's log", response_class=PlainTextResponse)
def read_log(
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    run_id: str,
    attempt: Annotated[
        int | None, Query(ge=1, le=1_000_000, description="Only what this attempt's runner printed; empty: the whole log.")
    ] = None,
    tail_bytes: Annotated[int, Query(ge=1, le=2**22, description="How much of the end of what runners printed.")] = 2**16,
) -> PlainTextResponse:
    """What the journal says of states and as log, a line each with its time; then what the runner of each attempt printed,
    the end of it, under a heading."""
    run = store.get_run(session, user.id, run_id)
    if attempt is not None:
        if attempt > run.attempt:
            raise NotFound(f"There is no attempt {attempt}; the run has had {run.attempt}.")
        return PlainTextResponse(read_tail(files.log_path(run_id, attempt), tail_bytes))
    numbers = range(max(1, run.attempt - run_log.MAX_ATTEMPTS + 1), run.attempt + 1)
    share = max(1, tail_bytes // max(1, len(numbers)))
    printed = {number: read_tail(files.log_path(run_id, number), share) for number in numbers}
    return PlainTextResponse(run_log.log_of(journal.read_last(session, run_id, run_log.KINDS, run_log.MAX_ENTRIES), printed))


def read_tail(path: Path, num_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
            return file.read(num_bytes).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


@router.get("/artifacts", operation_id="list_artifacts", summary="List what a run has made")
def list_artifacts(session: ReadSession, files: CurrentFiles, user: CurrentUser, run_id: str) -> list[ArtifactView]:
    """The files that may be downloaded, with their digests."""
    store.get_run(session, user.id, run_id)
    entries = journal.read(session, run_id, limit=MAX_ARTIFACTS, kinds=["artifact"])
    newest = {entry.payload["name"]: entry for entry in entries}
    there = files.list_there(run_id, newest.keys())
    return [show_artifact(run_id, entry) for name, entry in sorted(newest.items()) if name in there]


def show_artifact(run_id: str, entry: JournalEntry) -> ArtifactView:
    name = entry.payload["name"]
    facts = {key: entry.payload[key] for key in ("title", "size_bytes", "sha256")}
    return ArtifactView(name=name, url=f"/api/v1/runs/{run_id}/artifacts/{name}", **facts)


@router.get(
    "/model.zip", operation_id="download_model", summary="Download a run's model", response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}}},
)  # fmt: skip
def download_model(session: ReadSession, files: CurrentFiles, user: CurrentUser, run_id: str) -> StreamingResponse:
    """The trained model's folder as one zip archive."""
    run = store.get_run(session, user.id, run_id)
    entries = journal.read(session, run_id, limit=MAX_ARTIFACTS, kinds=["artifact"])
    names = sorted({name for entry in entries if (name := entry.payload["name"]).startswith("model/")})
    if not names:
        raise NotFound(f"The run “{run.name}” has no model (yet); it comes at the end of training.")
    paths = {name: files.artifact_path(run_id, name) for name in names}
    headers = {"content-disposition": f'attachment; filename="{run_id}-model.zip"'}
    return StreamingResponse(as_zip(paths), media_type="application/zip", headers=headers)


@router.get(
    "/artifacts/{name:path}", operation_id="download_artifact", summary="Download a file of a run", response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)  # fmt: skip
def download_artifact(session: ReadSession, files: CurrentFiles, user: CurrentUser, run_id: str, name: str) -> FileResponse:
    """One file; ranges are served, so a broken download can go on."""
    store.get_run(session, user.id, run_id)
    path = files.artifact_path(run_id, name)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)
