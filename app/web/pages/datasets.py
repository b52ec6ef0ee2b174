"""Data sets: the list, the upload form, and the page of one with its audit, its mapping form and its examples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.domain.dataset import Audit, ColumnMapping, DatasetState, Example, swap_sides
from app.domain.errors import InvalidInput, StudioError, TooLarge
from app.ingest.columns import SHAPE_ROLES
from app.services import datasets as service
from app.store import datasets as store
from app.store.tables import Answers, Comparison, Dataset
from app.web.dependencies import CurrentFiles, CurrentSettings, CurrentUser, ReadSession, WriteSession
from app.web.pages.mapping import SHAPE_TEXTS, MappingForm, kept, mapping_form
from app.web.rendering.difference import Piece, Unmarked, mark_differences
from app.web.rendering.environment import Context, go_to, render, variables
from app.web.rendering.histogram import Histogram, lengths_of, ratings_of
from app.web.uploads import take_dataset

router = APIRouter()

PAGE_SIZE = 30
EXAMPLES_SHOWN = 10


@dataclass(frozen=True)
class ShownExample:
    """An example with the words marked in which its first two responses differ, or why they are not."""

    example: Example
    marked: tuple[list[Piece], list[Piece]] | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetsPage(Context):
    template = "datasets/list.html"

    datasets: list[Dataset]
    mine: bool
    next_after: str


@dataclass(frozen=True, kw_only=True)
class UploadPage(Context):
    template = "datasets/new.html"

    max_bytes: int
    shapes: dict[str, str]
    title: str
    detail: str
    problems: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class DatasetPage(MappingForm):
    template = "datasets/dataset.html"

    origin: Answers | Comparison | None  # what it was made from
    audit: Audit | None
    swaps: bool
    histograms: list[Histogram]
    examples: list[ShownExample]
    before: int | None
    next_from: int | None
    title: str
    detail: str
    problems: list[dict[str, Any]]


@router.get("/datasets")
def list_datasets(
    request: Request,
    session: ReadSession,
    user: CurrentUser,
    mine: bool = False,
    after: Annotated[str, Query(max_length=60)] = "",
) -> HTMLResponse:
    found = store.list_datasets(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    next_after = found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else ""
    return render(request, DatasetsPage(datasets=found[:PAGE_SIZE], mine=mine, next_after=next_after))


@router.get("/datasets/new")
def new_dataset(request: Request, settings: CurrentSettings) -> HTMLResponse:
    return upload_page(request, settings.max_upload_bytes)


@router.post("/datasets/new")
async def upload_dataset(request: Request, settings: CurrentSettings, user: CurrentUser) -> Response:
    """For browsers without scripts; the page's own script sends the file to the REST address, to show how far it is."""
    try:
        dataset_id = await take_dataset(request, user.id)
    except (InvalidInput, TooLarge) as error:
        return upload_page(request, settings.max_upload_bytes, error=error)
    return RedirectResponse(f"/datasets/{dataset_id}", status_code=303)


def upload_page(request: Request, max_bytes: int, *, error: StudioError | None = None) -> HTMLResponse:
    shapes = {
        SHAPE_TEXTS[shape]: ", ".join(role.name for role in roles if role.required) or ", ".join(role.name for role in roles[-3:])
        for shape, roles in SHAPE_ROLES.items()
    }
    context = UploadPage(
        max_bytes=max_bytes,
        shapes=shapes,
        title=error.title if error else "",
        detail=error.detail if error else "",
        problems=error.problems if error else [],
    )
    return render(request, context, status=error.status if error else 200)


@router.get("/datasets/{dataset_id}")
def show_dataset(
    request: Request,
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    dataset_id: str,
    start: Annotated[int, Query(alias="from", ge=0, le=2**53)] = 0,
    shape: str = "",
) -> HTMLResponse:
    dataset = store.get_dataset(session, user.id, dataset_id)
    origin = store.find_origin(session, user.id, dataset)
    context = dataset_page(files, dataset, origin, start=start, shape=shape, values=kept(request.query_params))
    return render(request, context)


def dataset_page(
    files: CurrentFiles, dataset: Dataset, origin: Answers | Comparison | None, *,
    start: int = 0, shape: str = "", values: Mapping[str, list[str]] | None = None,
) -> DatasetPage:  # fmt: skip
    """Return all that the page of a data set shows, whatever state it is in."""
    is_ready = dataset.state == DatasetState.READY and dataset.audit is not None
    audit = Audit.model_validate(dataset.audit) if is_ready else None
    found = store.read_examples(files, dataset.id, after=start - 1, limit=EXAMPLES_SHOWN) if is_ready else []
    last = found[-1].example_id if found else 0
    faults = (dataset.error or {}).get("problems", []) if dataset.state == DatasetState.FAILED else []
    return DatasetPage(
        **variables(mapping_form(files, dataset, shape, values)),
        origin=origin,
        audit=audit,
        swaps=dataset.mapping is not None and swap_sides(ColumnMapping.model_validate(dataset.mapping)) is not None,
        histograms=histograms_of(audit) if audit else [],
        examples=[show_example(example) for example in found],
        before=max(0, start - EXAMPLES_SHOWN) if start > 0 else None,
        next_from=last + 1 if found and last + 1 < dataset.num_examples else None,
        title="The file can't be read",
        detail=(dataset.error or {}).get("detail", "") if dataset.state == DatasetState.FAILED else "",
        problems=faults,
    )


def histograms_of(audit: Audit) -> list[Histogram]:
    ratings = ratings_of(audit.facts)
    return [*lengths_of(audit.facts), *([ratings] if ratings else [])]


def show_example(example: Example) -> ShownExample:
    if len(example.responses) < 2:
        return ShownExample(example, None)
    first, second = example.responses[:2]
    marked = mark_differences(first.content, second.content)
    return ShownExample(example, None, marked.value) if isinstance(marked, Unmarked) else ShownExample(example, marked)


@router.post("/datasets/{dataset_id}/delete")
def delete_dataset(request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> Response:
    service.delete(session, files, user.id, dataset_id)
    return go_to(request, "/datasets")
