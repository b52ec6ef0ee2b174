"""The API described: the OpenAPI document and a page to read it."""

from typing import Any

from fastapi import APIRouter, Request

DESCRIPTION = """
Upload preference data, launch VAR runs, and watch weights, rewards and side-by-side generations.

Send a token with every request: `Authorization: Bearer …` (make one with `varstudio tokens create`).
Every error is `application/problem+json` with a sentence in `detail` and the fields at fault in `problems`.
Lists come newest first, a page at a time: pass the `next` of a page as `after` to get the one behind it.
"""

TAGS = [
    {"name": "datasets", "description": "Preference data: uploaded, mapped, audited."},
    {"name": "models", "description": "Policies and reward models: from the hub, a folder, or a run."},
    {"name": "runs", "description": "VAR runs: launched, watched, cancelled, resumed."},
    {"name": "records", "description": "What a run has recorded: events, metrics, weights, samples, findings, log, artifacts."},
    {"name": "system", "description": "The studio itself."},
]

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def show_document(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.openapi()
    return document
