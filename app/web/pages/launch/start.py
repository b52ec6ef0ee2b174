"""The launch form filled from something that is kept, kept itself as a template, or given out as a file."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.datastructures import UploadFile

from app.domain.errors import InvalidInput
from app.domain.training.baselines import BASELINES
from app.services import recipe_templates as service
from app.store.database import Database
from app.store.sharing import get_visible
from app.store.tables import RecipeTemplate
from app.web.dependencies import CurrentDatabase, CurrentUser, read_apart, write_apart
from app.web.pages.launch.beginning import CHOSEN, BeginningNote, as_file, begin_with_text, fill, told_faults
from app.web.pages.launch.form import form_page, read_form
from app.web.recipes import read_settings, split_lambdas

router = APIRouter()

MOST_BYTES = 2**18


@router.get("/runs/new/start")
@router.get("/runs/new/import")
@router.get("/runs/new/keep")
@router.get("/runs/new/export")
def show_form() -> Response:
    """The form itself, for who asks for these addresses again."""
    return RedirectResponse("/runs/new", status_code=303)


@router.post("/runs/new/start")
async def start_from(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The form filled from the preset or template that is chosen; data set, models and name stay where it leaves them open."""
    values = await read_form(request)
    kind, _, chosen = values.get("start.from", "").partition(":")
    kept = {path: values[path] for path in CHOSEN if values.get(path)}
    if kind == "preset":
        return go({**kept, "weights.preset": chosen})
    if kind != "template":
        return go(kept)

    def left_open() -> dict[str, str]:
        with database.reading() as session:
            settings = service.revive_settings(get_visible(session, RecipeTemplate, user.id, chosen))
            filled, _ = fill(session, user.id, settings, {})
            return {path: value for path, value in kept.items() if path not in filled}

    return go({**await read_apart(request, left_open), "template": chosen})


def go(query: Mapping[str, str]) -> Response:
    return RedirectResponse(f"/runs/new?{urlencode(query)}" if query else "/runs/new", status_code=303)


@router.post("/runs/new/import")
async def import_recipe(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The form filled from a recipe's file or text; otherwise the form as it was, with all that is wrong with the recipe."""
    values, pasted, file = await read_import(request)

    def answer() -> Response:
        text = pasted
        with database.reading() as session:
            try:
                text = decode(*file) if file else pasted
                filled, note = begin_with_text(session, user.id, text, values)
            except InvalidInput as error:
                note = BeginningNote("This recipe can't be imported", "bad", told_faults(error.problems) or [error.detail])
                return form_page(request, session, user.id, {**values, "import.text": text}, note=note, status=422)
            return form_page(request, session, user.id, filled, note=note)

    return await read_apart(request, answer)


async def read_import(request: Request) -> tuple[dict[str, str], str, tuple[str, bytes] | None]:
    """Return what is in the form, the text that was pasted, and the name and content of the file, where one is chosen."""
    async with request.form(max_fields=300, max_files=1, max_part_size=MOST_BYTES) as form:
        values = {name: value for name, value in form.items() if isinstance(value, str)}
        pasted, file = values.pop("import.text", ""), form.get("import.file")
        if isinstance(file, UploadFile) and file.filename:
            return values, pasted, (file.filename, await file.read(MOST_BYTES + 1))
    return values, pasted, None


def decode(filename: str, content: bytes) -> str:
    """Return a recipe's file as text. Raises InvalidInput."""
    if len(content) > MOST_BYTES:
        raise InvalidInput.at("import", f"{filename} is larger than {MOST_BYTES:,} bytes, which no recipe is.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput.at("import", f"{filename} is no UTF-8 text: choose a recipe's JSON or YAML.") from None


@router.post("/runs/new/keep")
async def keep_template(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The form again, with the template that its settings are kept in; otherwise with what is wrong with them."""
    values = await read_form(request)

    def keep() -> Response:
        try:
            with database.writing() as session:
                if not (name := values.get("template.name", "").strip()):
                    raise InvalidInput.at("template.name", "Give the template a name.")
                made = service.create(session, user.id, name, read_one(values), private=values.get("private") == "yes")
                link = (f"/recipe-templates/{made.id}", made.name)
        except InvalidInput as error:
            return refuse(request, database, user.id, values, error, "This can't be kept yet")
        note = BeginningNote("Kept as a template", "good", link=link)
        with database.reading() as session:
            return form_page(request, session, user.id, {**values, "template.name": ""}, note=note)

    return await write_apart(request, keep)


@router.post("/runs/new/export")
async def export_recipe(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The form's recipe as a file of JSON, every setting said; otherwise the form again with what is wrong."""
    values = await read_form(request)

    def export() -> Response:
        try:
            return as_file(service.check_settings(read_one(values)), values.get("name", ""))
        except InvalidInput as error:
            return refuse(request, database, user.id, values, error, "This can't be exported yet")

    return await read_apart(request, export)


def read_one(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of one run. Raises InvalidInput where the form asks for several, which a recipe can't say."""
    lambdas = split_lambdas(values)
    if len(lambdas) > 1:
        raise InvalidInput.at("weights.lambda", f"A recipe says one temperature, and these are {len(lambdas)}: leave one.")
    if any(values.get(f"baseline.{name}") == "yes" for name in BASELINES):
        raise InvalidInput.at("baselines", "A recipe says one run, without baselines beside it: untick them.")
    if values.get("experiment"):
        raise InvalidInput.at("experiment", "A recipe says one run, and an experiment is several: begin from a new form.")
    return read_settings(values)


def refuse(
    request: Request, database: Database, user_id: str, values: Mapping[str, str], error: InvalidInput, title: str
) -> Response:
    with database.reading() as session:
        return form_page(request, session, user_id, values, error=error, title=title)
