"""How the studio itself is: alive, ready, and measured for Prometheus."""

import time
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.domain.errors import Unavailable
from app.services.checkup import readiness
from app.store.prometheus import ask_smallest, measure
from app.web import prometheus
from app.web.dependencies import CurrentDatabase, CurrentFiles, read_apart

open_router = APIRouter(tags=["system"])
router = APIRouter(tags=["system"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class CheckView(BaseModel):
    ok: bool
    needed: bool = Field(description="Whether the studio is not ready without it.")
    detail: str = Field(description="What is wrong and what to do; empty when all is well.")


class Readiness(BaseModel):
    status: Literal["ok"] = "ok"
    checks: dict[str, CheckView] = Field(description="database, tables, data_folder, broker; store where there is one.")


@open_router.get("/healthz", operation_id="get_health", summary="Is the web process alive?")
async def get_health() -> Health:
    """Answers without a look at anything else (not even for a free thread), and without a sign-in."""
    return Health()


@router.get("/readyz", operation_id="get_readiness", summary="Can it work: database, tables, data folder, broker?")
async def get_readiness(request: Request, database: CurrentDatabase, files: CurrentFiles) -> Readiness:
    """Each check by name. 503, with the checks in `extra`, while one that is needed fails; without the broker runs start a
    little later, so it isn't needed."""
    checks = await read_apart(request, readiness.check, database, files)
    views = {name: CheckView(ok=check.ok, needed=check.needed, detail=check.detail) for name, check in checks.items()}
    if missing := [check.detail for check in checks.values() if check.needed and not check.ok]:
        error = Unavailable(" ".join(missing))
        error.extra = {"checks": {name: view.model_dump() for name, view in views.items()}}
        raise error
    return Readiness(checks=views)


@router.get("/metrics", operation_id="get_process_metrics", summary="Series for Prometheus", response_class=PlainTextResponse)
async def get_process_metrics(request: Request, database: CurrentDatabase) -> Response:
    """Queue, runs, workers, GPUs, streams, requests and this process, in Prometheus' text format."""

    def look() -> prometheus.Studio:
        with database.reading() as session:
            began = time.perf_counter()
            ask_smallest(session)
            seconds = time.perf_counter() - began
            return prometheus.Studio(measure(session), round_trip_seconds=seconds)

    studio = await read_apart(request, look)
    text = await run_in_threadpool(prometheus.render, request.app.state.metrics, studio)
    return Response(text, media_type=prometheus.CONTENT_TYPE)
