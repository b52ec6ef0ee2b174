"""Behind the launch form's panel: the answer to "what would these settings weigh?", and "score now".

Both take the whole form. Asked by htmx they answer with the panel alone, otherwise with the form's page, filled as it was.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from app.domain.errors import InvalidInput
from app.services import previews, scorings
from app.store.database import Database
from app.store.tables import Preview
from app.web.dependencies import CurrentDatabase, CurrentUser, read_apart, write_apart
from app.web.pages.launch import form_page, read_form
from app.web.pages.panel import Panel, look, settle
from app.web.recipes import at_fields, read_scored
from app.web.rendering import Context, render

router = APIRouter()

WAIT_SECONDS, POLL_SECONDS = 2.5, 0.05


@dataclass(frozen=True, kw_only=True)
class PanelPart(Context):
    """The panel; `is_new`: the launch needs another word than the page holds, so the form's end comes with it."""

    panel: Panel
    is_new: bool


@router.post("/runs/new/preview")
async def preview_launch(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """What is known of these settings; a preview is waited for as long as one would wait for a page."""
    values = dict(await read_form(request))
    if taken := values.pop("take.lambda", ""):
        values |= {"weights.lambda": taken, "weights.target_ess": ""}
    return await answer(request, database, user.id, values)


@router.post("/runs/new/score")
async def score_now(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """Start the scoring of these settings; the panel then follows it."""
    values = await read_form(request)

    def score() -> InvalidInput | None:
        try:
            with database.writing() as session:
                scorings.request(session, user.id, read_scored(values))
        except InvalidInput as error:
            return error
        return None

    return await answer(request, database, user.id, values, error=await write_apart(request, score))


async def answer(
    request: Request, database: Database, owner_id: str, values: Mapping[str, str], *, error: InvalidInput | None = None
) -> Response:
    asked = await write_apart(request, ask, database, owner_id, values)
    end = time.monotonic() + WAIT_SECONDS
    while asked and time.monotonic() < end and not await read_apart(request, is_answered, database, asked):
        await asyncio.sleep(POLL_SECONDS)
    return await write_apart(request, show, request, database, owner_id, values, asked, error)


def ask(database: Database, owner_id: str, values: Mapping[str, str]) -> str:
    """The id of the preview that a worker is asked for; empty when there is nothing to ask, or its answer is kept."""
    with database.reading() as session:
        panel = look(session, owner_id, values)
    if panel.state != "asked" or panel.scoring is None or panel.request is None:
        return ""
    with database.writing() as session:
        return previews.ask(session, owner_id, panel.scoring.id, panel.request).id


def is_answered(database: Database, preview_id: str) -> bool:
    with database.reading() as session:
        preview = session.get(Preview, preview_id)
        return preview is None or preview.state in ("done", "failed")


def show(
    request: Request, database: Database, owner_id: str, values: Mapping[str, str], asked: str, error: InvalidInput | None
) -> HTMLResponse:
    """The panel, or the form's page around it."""
    with database.reading() as session:
        panel = settle(look(session, owner_id, values), session.get(Preview, asked) if asked else None, session)
        if not request.headers.get("hx-request"):
            return form_page(request, session, owner_id, values, error=error, panel=panel)
        if error is not None:
            panel = replace(panel, state="incomplete", problems=at_fields(error.problems))
        is_new = values.get("launch.warned", "no") != ("yes" if panel.inverted else "no")
        return render(request, "runs/_panel.html", PanelPart(panel=panel, is_new=is_new))
