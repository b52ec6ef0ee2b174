"""Behind the launch form's panel: the answer to "what would these settings weigh?", "score now" and "fine-tune first".

All take the whole form. The first two answer htmx with the panel alone, others with the form's page, filled as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.errors import InvalidInput, Unavailable
from app.domain.recipe import parse_recipe
from app.services import runs, scorings
from app.store.database import Database
from app.web.dependencies import CurrentDatabase, CurrentUser, read_apart, write_apart
from app.web.pages.launch.form import form_page, read_form
from app.web.pages.launch.outlook import Panel, add_answer, look
from app.web.pages.launch.summary import PLAIN
from app.web.preview_requests import PAGE_WAIT_SECONDS, compute
from app.web.recipes import at_fields, read_scored, read_settings
from app.web.rendering.environment import Context, render_apart
from app.web.rendering.form_words import tell_error

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class PanelPart(Context):
    """The panel; `is_new`: the launch needs another word than the page holds, so the form's end comes with it."""

    template = "launch/_outlook.html"

    panel: Panel
    is_new: bool
    is_live: bool = True  # the λ that is found comes along


@router.post("/runs/new/preview")
async def preview_launch(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """What is known of these settings; a preview is waited for as long as one would wait for a page."""
    values = dict(await read_form(request))
    if taken := values.pop("take.lambda", ""):
        values["weights.lambda"] = taken
    if reset := values.pop("take.reset", ""):  # without scripts; with them the form resets the field itself
        values[reset] = PLAIN.get(reset, "")
    return await respond(request, database, user.id, values)


@router.post("/runs/new/score")
async def score_now(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """Start the scoring of these settings; the panel then follows it."""
    values = await read_form(request)

    def score() -> InvalidInput | None:
        try:
            with database.writing() as session:
                scorings.request(session, user.id, read_scored(values), private=values.get("private") == "yes")
        except InvalidInput as error:
            return error
        return None

    return await respond(request, database, user.id, values, error=await write_apart(request, score))


@router.post("/runs/new/tune")
async def tune_now(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The page of the fine-tuning on all of the data's responses, after which these settings, at their first λ, are to follow;
    where they can't be launched the form with what is wrong.
    """
    values = await read_form(request)

    def tune() -> Response:
        try:
            recipe = parse_recipe(read_settings(values))
            with database.writing() as session:
                run = runs.tune_for(session, user.id, recipe.to_dict(), private=values.get("private") == "yes")
        except InvalidInput as error:
            with database.reading() as session:
                return form_page(request, session, user.id, values, error=error)
        return RedirectResponse(f"/runs/{run.id}", status_code=303)

    return await write_apart(request, tune)


async def respond(
    request: Request, database: Database, owner_id: str, values: Mapping[str, str], *, error: InvalidInput | None = None
) -> Response:
    """Return the panel, with the preview when it comes while one waits."""
    panel = await read_apart(request, find, database, owner_id, values)
    if panel.state == "asked" and panel.scoring is not None and panel.request is not None:
        try:
            result = await compute(request, owner_id, panel.scoring.id, panel.request, wait_seconds=PAGE_WAIT_SECONDS)
            panel = add_answer(panel, result)
        except Unavailable as late:
            panel = replace(panel, sentence=late.detail)
        except InvalidInput as refusal:
            panel = replace(
                panel,
                state="refused",
                problems=at_fields(refusal.problems),
                sentence=tell_error(refusal),
            )
    if error is not None:
        panel = replace(panel, state="incomplete", problems=at_fields(error.problems))
    if not request.headers.get("hx-request"):
        return await read_apart(request, show_page, request, database, owner_id, values, panel)
    is_new = values.get("launch.warned", "no") != ("yes" if panel.inverted else "no")
    return await render_apart(request, PanelPart(panel=panel, is_new=is_new))


def find(database: Database, owner_id: str, values: Mapping[str, str]) -> Panel:
    with database.reading() as session:
        return look(session, owner_id, values)


def show_page(request: Request, database: Database, owner_id: str, values: Mapping[str, str], panel: Panel) -> HTMLResponse:
    with database.reading() as session:
        return form_page(request, session, owner_id, values, panel=panel)
