"""The mapping form of a data set whose shape isn't known: a shape, a column for each of its roles, its switches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import FormData

from app.domain import problems
from app.domain.dataset import ColumnMapping, Shape
from app.domain.errors import DatasetInvalid
from app.ingest.columns import NEEDED_TOGETHER, SHAPE_ROLES, Role, ShapeOption, names_of, options_of
from app.services import datasets as service
from app.store import datasets as store
from app.store.files.files import Files
from app.store.tables import Dataset
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, write_apart
from app.web.rendering.environment import Context, render_part
from app.web.rendering.fields import write
from app.web.rendering.format import words
from app.web.uploads import taking_place, wait_for_reading

router = APIRouter()

SHAPE_TEXTS = {
    Shape.PAIR: "a prompt with a chosen and a rejected response",
    Shape.TRANSCRIPT_PAIR: "two whole dialogues as text",
    Shape.CONVERSATION_PAIR: "two message lists that repeat the prompt",
    Shape.SHAREGPT_PAIR: "a dialogue, then chosen and rejected",
    Shape.ALPACA_PAIR: "instruction and input, then chosen and rejected",
    Shape.TWO_RESPONSES: "two responses and a label, votes or ratings",
    Shape.RANKED: "a list of responses with ranks or ratings",
    Shape.CANDIDATES: "lists of prefixes, suffixes and rewards",
    Shape.REPLY_TREE: "a tree of ranked replies",
    Shape.RATED: "one response with a rating or a thumb",
}


SHAPE_TITLES = {
    Shape.SHAREGPT_PAIR: "ShareGPT pair",
    Shape.ALPACA_PAIR: "Alpaca pair",
    Shape.CANDIDATES: "List of candidates",
    Shape.RATED: "Rated response",
    Shape.RANKED: "Ranked responses",
}


@dataclass(frozen=True, kw_only=True)
class MappingForm(Context):
    template = "datasets/_mapping.html"
    part = "datasets/_mapping_roles.html"

    dataset: Dataset
    shapes: dict[str, tuple[str, str]]
    likely: list[str]
    shape: str
    roles: tuple[Role, ...]
    options: tuple[ShapeOption, ...]
    columns: list[dict[str, str]]
    rows: list[dict[str, str]]
    needed: Mapping[str, str]
    values: Mapping[str, list[str]]
    errors: Mapping[str, str]


def mapping_form(files: Files, dataset: Dataset, shape: str, values: Mapping[str, list[str]] | None = None) -> MappingForm:
    """Return the form for one shape: with `values`, else with the mapping that was tried, else with columns that bear a role's
    name.
    """
    preview = store.preview(files, dataset.id)
    names = {column["name"] for column in preview["columns"]}
    tried = dataset.mapping or {}
    asked = shape or tried.get("shape", "")
    likely = [Shape(one) for one in preview["shapes"]]
    chosen = Shape(asked) if asked in list(Shape) else likeliest(likely, names)
    roles = SHAPE_ROLES[chosen]
    faults = (dataset.error or {}).get("problems", [])
    return MappingForm(
        dataset=dataset,
        shapes={str(one): (shape_title(one), text) for one, text in SHAPE_TEXTS.items()},
        likely=[str(one) for one in likely] if len(likely) < len(SHAPE_TEXTS) else [],
        shape=str(chosen),
        roles=roles,
        options=options_of(chosen),
        columns=preview["columns"],
        rows=preview["rows"],
        needed=needed_in(chosen),
        values=values or tried_values(tried) or supposed_values(preview, roles),
        errors={str(fault.get("field", "")).removeprefix("mapping."): str(fault["message"]) for fault in faults},
    )


def shape_title(shape: Shape) -> str:
    return SHAPE_TITLES.get(shape) or words(shape).capitalize()


def supposed_values(preview: Mapping[str, Any], roles: Sequence[Role]) -> dict[str, list[str]]:
    """Return what the file itself suggests: columns that bear a part's name, and the tags that its dialogues seem to have."""
    names = {column["name"] for column in preview["columns"]}
    columns = {f"columns.{role.name}": [role.name] for role in roles if role.name in names}
    return columns | {f"options.{name}": [tag] for name, tag in preview.get("tags", {}).items()}


def tried_values(mapping: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return a stored mapping as its form's values."""
    columns = {f"columns.{role}": names_of(value) for role, value in (mapping.get("columns") or {}).items()}
    options = {f"options.{name}": [write(value)] for name, value in (mapping.get("options") or {}).items()}
    return {**columns, **options}


def needed_in(shape: Shape) -> dict[str, str]:
    """For each part that is needed unless another is given: which of them will do."""
    needed: dict[str, str] = {}
    for alternatives in NEEDED_TOGETHER.get(shape, ()):
        text = ", or ".join(" and ".join(words(name) for name in group) for group in alternatives)
        needed |= {name: f"Needed: {text}." for group in alternatives for name in group}
    return needed


def likeliest(shapes: Sequence[Shape], names: Collection[str]) -> Shape:
    """Of the shapes that may fit, the one whose roles the columns' names fill best."""

    def fit(shape: Shape) -> int:
        return sum(role.name in names for role in SHAPE_ROLES[shape])

    return max(shapes, key=fit, default=Shape.PAIR)


@router.get("/datasets/{dataset_id}/mapping")
def show_mapping(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, dataset_id: str, shape: str = ""
) -> HTMLResponse:
    """The inputs of one shape, for the form to take in."""
    dataset = store.get_dataset(session, user.id, dataset_id)
    return render_part(request, mapping_form(files, dataset, shape, kept(request.query_params)))


@router.post("/datasets/{dataset_id}/mapping")
async def map_columns(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, dataset_id: str
) -> Response:
    """The data set's page; it shows the form again, with its choices and faults, when the mapping doesn't fit."""
    async with request.form(max_fields=200, max_files=0) as form:
        mapping = read_mapping(form)
        choices = urlencode({"shape": mapping.shape, **kept(form)}, doseq=True)

    def remap() -> str:
        with database.writing() as session:
            return service.remap(session, files, user.id, dataset_id, mapping).id

    async with taking_place(request, user.id):
        mapped_id = await write_apart(request, remap)
        try:
            await wait_for_reading(request, user.id, mapped_id)
        except DatasetInvalid:
            if mapped_id != dataset_id:
                raise  # nothing of the new state stays
            # else the row holds the fault now, and its page shows it at its field
    return RedirectResponse(f"/datasets/{mapped_id}?{choices}", status_code=303)


@router.post("/datasets/{dataset_id}/swap")
async def swap_sides(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, dataset_id: str
) -> Response:
    """The data set's page, or that of its new state, with chosen and rejected in each other's place."""

    def swap() -> str:
        with database.writing() as session:
            return service.swap(session, files, user.id, dataset_id).id

    async with taking_place(request, user.id):
        swapped_id = await write_apart(request, swap)
        await wait_for_reading(request, user.id, swapped_id)
    return RedirectResponse(f"/datasets/{swapped_id}", status_code=303)


def kept(form: Any) -> dict[str, list[str]]:
    """Return what was chosen so far, as far as the next shape asks for the same."""
    chosen = {
        name: [value for value in form.getlist(name) if value] for name in form if name.startswith(("columns.", "options."))
    }
    return {name: values for name, values in chosen.items() if values}


def read_mapping(form: FormData) -> ColumnMapping:
    """Return the submitted mapping. Raises DatasetInvalid for an unknown shape."""
    columns: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name in form:
        chosen = [str(value) for value in form.getlist(name) if str(value).strip()]
        group, _, key = name.partition(".")
        if group == "columns" and chosen:
            columns[key] = chosen[0] if len(chosen) == 1 else chosen
        elif group == "options" and chosen:
            options[key] = {"yes": True, "no": False}.get(chosen[-1], chosen[-1])
    return problems.parse(ColumnMapping, {"shape": form.get("shape"), "columns": columns, "options": options}, DatasetInvalid)
