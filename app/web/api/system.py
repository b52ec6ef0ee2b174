"""How the studio itself is: alive, ready, and counted for Prometheus."""

import os
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from sqlalchemy import func, select

from app.domain.errors import Unavailable
from app.domain.run import RunState
from app.store.tables import Run
from app.web.dependencies import CurrentDatabase, ReadSession

open_router = APIRouter(tags=["system"])
router = APIRouter(tags=["system"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@open_router.get("/healthz", operation_id="get_health", summary="Is the web process alive?")
async def get_health() -> Health:
    """Answers without a look at anything else (not even for a free thread), and without a sign-in."""
    return Health()


@router.get("/readyz", operation_id="get_readiness", summary="Can it work: database reachable and of this version?")
def get_readiness(database: CurrentDatabase) -> Health:
    """503 with a reason while it can't."""
    if not database.is_current():
        raise Unavailable("The database's tables are not those of this version: run varstudio db upgrade.")
    return Health()


@router.get("/metrics", operation_id="get_process_metrics", summary="Counts for Prometheus", response_class=PlainTextResponse)
def get_process_metrics(session: ReadSession) -> PlainTextResponse:
    """Runs by state and the memory of the web process, in Prometheus' text format."""
    counts = {
        row.state: row.num_runs for row in session.execute(select(Run.state, func.count().label("num_runs")).group_by(Run.state))
    }
    lines = ["# HELP studio_runs Runs by state.", "# TYPE studio_runs gauge"]
    lines += [f'studio_runs{{state="{state}"}} {counts.get(state, 0)}' for state in RunState]
    lines += [
        "# HELP process_resident_memory_bytes Resident memory of the web process.",
        "# TYPE process_resident_memory_bytes gauge",
        f"process_resident_memory_bytes {resident_bytes()}",
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def resident_bytes() -> int:
    """Resident memory of this process, from the kernel."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
