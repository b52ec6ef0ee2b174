"""Models: the list, the form that registers one, and the page of one with its line, its uses and how it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput, ModelInvalid, StudioError, Unavailable
from app.domain.model import ModelRequest
from app.domain.preview.readings import ConversationReading
from app.domain.problems import parse
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.services import models as service
from app.services import readings
from app.settings import Settings
from app.store import models as store
from app.store import runs
from app.store.database import Database
from app.store.overview.model_uses import FEW, Ancestor, Use, find_line, list_uses, name_sources
from app.store.sharing import find_visible
from app.store.tables import Model, Run
from app.web.dependencies import (
    CurrentDatabase,
    CurrentFiles,
    CurrentSettings,
    CurrentUser,
    ReadSession,
    WriteSession,
    read_apart,
    run_errand,
)
from app.web.preview_requests import PAGE_WAIT_SECONDS
from app.web.reading_requests import TalkQuery, read
from app.web.rendering.choices import Choice, run_choices
from app.web.rendering.environment import Context, go_to, render, render_apart, variables
from app.web.rendering.form_words import tell_error

router = APIRouter()

PAGE_SIZE = 50
EMPTY = {"kind": "policy", "source": "hub", "name": "", "path": "", "run_id": "", "revision": "", "private": ""}


@dataclass(frozen=True, kw_only=True)
class ModelsPage(Context):
    template = "models/list.html"

    models: list[Model]
    sources: dict[str, str]  # names of the runs that models were taken from
    mine: bool
    after: str
    next_after: str


@dataclass(frozen=True, kw_only=True)
class NewModelPage(Context):
    template = "models/new.html"

    roots: list[str]
    succeeded: list[Choice]
    values: Mapping[str, str]
    errors: Mapping[str, str]
    detail: str


After = Annotated[str, Query(max_length=60)]


@router.get("/models")
def list_models(
    request: Request, session: ReadSession, user: CurrentUser, mine: bool = False, after: After = "", run: After = ""
) -> Response:
    """The list; with `run`, an address of the time when the form was here, to the form."""
    if run:
        return RedirectResponse(f"/models/new?{urlencode({'run': run})}", status_code=308)
    found = store.list_models(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    shown = found[:PAGE_SIZE]
    following = shown[-1].id if len(found) > PAGE_SIZE else ""
    sources = name_sources(session, user.id, shown)
    return render(request, ModelsPage(models=shown, sources=sources, mine=mine, after=after, next_after=following))


@router.get("/models/new")
def show_form(
    request: Request, session: ReadSession, user: CurrentUser, settings: CurrentSettings, run: After = ""
) -> HTMLResponse:
    """The form; with `run`, filled to take that run's model."""
    values = values_for(runs.get_run(session, user.id, run)) if run else EMPTY
    return form(request, session, user.id, settings, values)


def values_for(run: Run) -> dict[str, str]:
    """Return the form that registers what a run has trained."""
    is_reward = run.recipe.get("method") == Method.REWARD_MODEL
    return {**EMPTY, "kind": "reward" if is_reward else "policy", "source": "run", "run_id": run.id, "name": run.name}


@router.post("/models")
async def register_model(
    request: Request, database: CurrentDatabase, files: CurrentFiles, settings: CurrentSettings, user: CurrentUser
) -> Response:
    """The page of the new model on success; otherwise the form again, with what is wrong beside its field."""
    async with request.form(max_fields=20, max_files=0) as given:
        values = {name: str(given.get(name, default))[:1000].strip() for name, default in EMPTY.items()}

    def register() -> Response:
        try:
            told = {name: value for name, value in values.items() if name != "private"}
            asked = parse(ModelRequest, {**told, "revision": values["revision"] or None}, ModelInvalid)
            found = service.examine_within(database, files, settings, user.id, asked)
            model = service.add_within(database, files, user.id, found, private=values["private"] == "yes")
        except StudioError as error:
            with database.reading() as session:
                return form(request, session, user.id, settings, values, error=error)
        return RedirectResponse(f"/models/{model.id}", status_code=303)

    return await run_errand(request, register)


@router.post("/models/{model_id}/copy")
async def copy_model(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, model_id: str,
    name: Annotated[str, Form(max_length=400)] = "",
) -> Response:  # fmt: skip
    """The page of the model under its other name."""
    made = await run_errand(request, service.copy_within, database, files, user.id, model_id, name)
    return go_to(request, f"/models/{made.id}")


@router.post("/models/{model_id}/delete")
def delete_model(request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, model_id: str) -> Response:
    service.delete(session, files, user.id, model_id)
    return go_to(request, "/models")


@dataclass(frozen=True, kw_only=True)
class ReadingPart(Context):
    """How a model reads the conversation of the form. `sentence`: why there is no reading; `is_asked`: one is being made."""

    template = "models/_reading.html"

    model: Model
    reading: ConversationReading | None
    problems: list[dict[str, Any]]
    sentence: str
    is_asked: bool


@dataclass(frozen=True, kw_only=True)
class ModelPage(ReadingPart):
    template = "models/model.html"

    line: list[Ancestor]
    uses: list[Use]
    most_uses: int  # of a kind; 0 when all stand there
    talk: Mapping[str, str]


@router.get("/models/{model_id}")
async def show_model(
    request: Request, database: CurrentDatabase, user: CurrentUser, model_id: str, query: Annotated[TalkQuery, Query()]
) -> HTMLResponse:
    """The model with its facts; the conversation is read by a request of its own, unless the form was sent without scripts."""
    model, line, uses, has_more = await read_apart(request, find_surroundings, database, user.id, model_id)
    part = ReadingPart(model=model, reading=None, problems=[], sentence="", is_asked=True)
    if request.query_params:
        part = await look_at(request, user.id, model, query)
    system, prompt, response = readings.EXAMPLE
    shown = {"system": system.content, "prompt": prompt.content, "response": response.content, "prompt_format": "auto"}
    talk = query.model_dump() if request.query_params else shown
    return await render_apart(
        request, ModelPage(**variables(part), line=line, uses=uses, most_uses=FEW if has_more else 0, talk=talk)
    )


@router.get("/models/{model_id}/reading")
async def show_reading(
    request: Request, database: CurrentDatabase, user: CurrentUser, model_id: str, query: Annotated[TalkQuery, Query()]
) -> HTMLResponse:
    """How the model reads a conversation, waited for as long as one would wait for a page."""
    model = await read_apart(request, find_model, database, user.id, model_id)
    return await render_apart(request, await look_at(request, user.id, model, query))


def find_model(database: Database, owner_id: str, model_id: str) -> Model:
    with database.reading() as session:
        return store.get_model(session, owner_id, model_id)


def find_surroundings(database: Database, owner_id: str, model_id: str) -> tuple[Model, list[Ancestor], list[Use], bool]:
    """Return the model, where it comes from, and what it is used in, of which there may be more."""
    with database.reading() as session:
        model = store.get_model(session, owner_id, model_id)
        return model, find_line(session, owner_id, model), *list_uses(session, owner_id, model)


async def look_at(request: Request, owner_id: str, model: Model, query: TalkQuery) -> ReadingPart:
    """Return the reading, or why there is none; the files are looked at first."""
    state = request.app.state
    problems = await run_errand(request, service.check_within, state.database, state.settings, owner_id, model.id)
    part = ReadingPart(model=model, reading=None, problems=problems, sentence="", is_asked=False)
    if problems:
        return part
    try:
        reading = await read(request, owner_id, query.request(model.id), wait_seconds=PAGE_WAIT_SECONDS)
    except Unavailable as late:
        return replace(part, sentence=late.detail, is_asked=True)
    except InvalidInput as invalid:
        return replace(part, problems=[{"field": "", "message": invalid.detail}])
    assert isinstance(reading, ConversationReading)
    faults = [{"field": "chat_template", "message": reading.unusable}] if reading.unusable else []
    return replace(part, reading=reading, problems=faults)


def list_trained(session: Session, owner_id: str, wanted: str) -> list[Run]:
    """Return the newest runs that have a model to take, and the wanted one however old it is."""
    found = [
        run for run in runs.list_runs(session, owner_id, state=RunState.SUCCEEDED, limit=200) if run.kind == RunKind.TRAINING
    ]
    older = find_visible(session, Run, owner_id, wanted) if wanted and wanted not in {run.id for run in found} else None
    return [older, *found] if older is not None else found


def form(
    request: Request, session: Session, owner_id: str, settings: Settings, values: Mapping[str, str],
    *, error: StudioError | None = None,
) -> HTMLResponse:  # fmt: skip
    """Return the form with these values, and what is wrong with them."""
    faults = error.problems if isinstance(error, ModelInvalid) else []
    context = NewModelPage(
        roots=[str(root) for root in service.roots_of(settings)],
        succeeded=run_choices(list_trained(session, owner_id, values["run_id"])),
        values=values,
        errors={str(fault["field"]): str(fault["message"]) for fault in faults if fault.get("field") in EMPTY},
        detail=tell_error(error) if error else "",
    )
    return render(request, context, status=error.status if error else 200)
