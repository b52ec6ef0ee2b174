"""REST: data sets. Uploaded, mapped, read example by example, audited, downloaded."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.domain.dataset import Audit, ColumnMapping, DatasetOrigin, DatasetState, Example
from app.domain.errors import NotFound
from app.services import datasets as service
from app.store import datasets as store
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Dataset
from app.web.api.forms import describe_form
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import ChangeBody, Mine, OwnedView, change
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart, write_apart
from app.web.exports import as_csv, as_json_lines
from app.web.uploads import take_dataset, taking_place, wait_for_reading

router = APIRouter(prefix="/datasets", tags=["datasets"])


class DatasetView(OwnedView):
    """A data set as lists show it."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["data_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    state: DatasetState
    filename: str
    size_bytes: int
    sha256: str
    num_examples: int
    previous_id: str | None = Field(description="The data set whose file this one maps another way.")
    made_from: DatasetOrigin | None = Field(description="The answers or the comparison that it was made from in the studio.")
    error: dict[str, Any] | None = Field(
        description="Why it isn't ready. With needs_mapping, `extra` holds columns, first rows and shapes that may fit."
    )
    created_at: datetime


class DatasetDetail(DatasetView):
    """A data set with its mapping and its audit."""

    mapping: ColumnMapping | None = Field(description="With needs_mapping: the one that was tried last and didn't fit, if any.")
    audit: Audit | None


class MappingPreview(BaseModel):
    """What a mapping is chosen from."""

    columns: list[dict[str, Any]] = Field(description="name, type and an example of each column.")
    rows: list[dict[str, Any]] = Field(description="The first rows, as text by column.")
    shapes: list[str] = Field(description="Shapes that the columns could have.")
    tags: dict[str, str] = Field({}, description="user_tag and assistant_tag, where texts look like dialogues under such tags.")


class Examples(BaseModel):
    items: list[Example]
    next: int | None = Field(description="Pass it as `after` to get the next page.")


def show(dataset: Dataset) -> DatasetView:
    return DatasetView.model_validate(dataset)


def show_detail(dataset: Dataset) -> DatasetDetail:
    return DatasetDetail.model_validate(dataset)


MULTIPART = describe_form(
    ".jsonl, .json, .csv, .parquet or .arrow; each also .gz, or several in a .zip or .tar",
    {
        "name": {"type": "string", "maxLength": 120, "description": "Empty: the file's name."},
        "private": {"type": "boolean", "description": "Only you and admins see it; empty: all members do."},
        "mapping": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "Which column plays which part; empty: found out.",
        },
    },
)


@router.post("", status_code=201, operation_id="upload_dataset", summary="Upload a data set", openapi_extra=MULTIPART)
async def upload_dataset(request: Request, response: Response, database: CurrentDatabase, user: CurrentUser) -> DatasetDetail:
    """The file is streamed to disk, hashed and read. `state` tells how far it is: ready, needs_mapping (see `error`), or
    processing when it takes longer than ten seconds. A file that can't be read is refused, and nothing of it stays."""
    dataset_id = await take_dataset(request, user.id)
    response.headers["location"] = f"/api/v1/datasets/{dataset_id}"
    return await read_apart(request, read_detail, database, user.id, dataset_id)


def read_detail(database: Database, owner_id: str, dataset_id: str) -> DatasetDetail:
    with database.reading() as session:
        return show_detail(store.get_dataset(session, owner_id, dataset_id))


@router.get("", operation_id="list_datasets", summary="List data sets")
def list_datasets(
    session: ReadSession, user: CurrentUser, state: DatasetState | None = None, mine: Mine = False, after: After = None,
    limit: Limit = 50,
) -> Page[DatasetView]:  # fmt: skip
    """Newest first, all that you may see, or those in one state."""
    rows = store.list_datasets(session, user.id, state=state, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, show, lambda row: row.id)


@router.get("/{dataset_id}", operation_id="get_dataset", summary="Get a data set")
def get_dataset(session: ReadSession, user: CurrentUser, dataset_id: str) -> DatasetDetail:
    """One data set with its mapping and its audit."""
    return show_detail(store.get_dataset(session, user.id, dataset_id))


@router.patch("/{dataset_id}", operation_id="change_dataset", summary="Rename a data set, make it private, or share it")
def change_dataset(session: WriteSession, user: CurrentUser, dataset_id: str, body: ChangeBody) -> DatasetDetail:
    """Its file, its runs and what they recorded stay as they are. While it is private, so is what is made of it, to all but
    its maker."""
    return show_detail(change(session, user.id, Dataset, dataset_id, body))


@router.delete("/{dataset_id}", status_code=204, operation_id="delete_dataset", summary="Delete a data set")
def delete_dataset(session: WriteSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> None:
    """Removes it with its files. 409 while a run uses it."""
    service.delete(session, files, user.id, dataset_id)


@router.get("/{dataset_id}/preview", operation_id="preview_dataset", summary="See columns and first rows")
def preview_dataset(session: ReadSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> MappingPreview:
    """What the file holds before any mapping."""
    store.get_dataset(session, user.id, dataset_id)
    return MappingPreview(**store.preview(files, dataset_id))


@router.post("/{dataset_id}/mapping", operation_id="map_dataset", summary="Map the columns")
async def map_dataset(
    request: Request,
    mapping: ColumnMapping,
    database: CurrentDatabase,
    files: CurrentFiles,
    user: CurrentUser,
    dataset_id: str,
) -> DatasetDetail:
    """Reads the file again with this mapping. A data set that runs or scorings use stays as it is: the answer is then a new
    one of the same file, with an `id` of its own and this one as its `previous_id`."""
    async with taking_place(request, user.id):
        mapped_id = await write_apart(request, remap, database, files, user.id, dataset_id, mapping)
        await wait_for_reading(request, user.id, mapped_id)
    return await read_apart(request, read_detail, database, user.id, mapped_id)


def remap(database: Database, files: Files, owner_id: str, dataset_id: str, mapping: ColumnMapping) -> str:
    with database.writing() as session:
        return service.remap(session, files, owner_id, dataset_id, mapping).id


@router.post("/{dataset_id}/swap", operation_id="swap_dataset", summary="Swap chosen and rejected")
async def swap_dataset(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, dataset_id: str
) -> DatasetDetail:
    """Reads the file again with chosen and rejected in each other's place; otherwise as mapping the columns does."""
    async with taking_place(request, user.id):
        swapped_id = await write_apart(request, swap, database, files, user.id, dataset_id)
        await wait_for_reading(request, user.id, swapped_id)
    return await read_apart(request, read_detail, database, user.id, swapped_id)


def swap(database: Database, files: Files, owner_id: str, dataset_id: str) -> str:
    with database.writing() as session:
        return service.swap(session, files, owner_id, dataset_id).id


@router.get("/{dataset_id}/audit", operation_id="get_audit", summary="Get the audit")
def get_audit(session: ReadSession, user: CurrentUser, dataset_id: str) -> Audit:
    """What is in the data set: rows kept and dropped by reason and number, responses, pairs, facts."""
    dataset = store.get_dataset(session, user.id, dataset_id)
    if dataset.audit is None:
        raise NotFound(not_ready(dataset))
    return Audit.model_validate(dataset.audit)


@router.get("/{dataset_id}/examples", operation_id="list_examples", summary="Read examples")
def list_examples(
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    dataset_id: str,
    after: Annotated[int, Query(ge=-1, le=2**62, description="`next` of the page before.")] = -1,
    limit: Annotated[int, Query(ge=1, le=200, description="At most; there are fewer where they are long.")] = 20,
) -> Examples:
    """Prompts with their responses, in the file's order."""
    dataset = store.get_dataset(session, user.id, dataset_id)
    items = store.read_examples(files, dataset_id, after=after, limit=limit)
    last = items[-1].example_id if items else dataset.num_examples
    return Examples(items=items, next=last if last + 1 < dataset.num_examples else None)


@router.get(
    "/{dataset_id}/file", operation_id="download_file", summary="Download the file", response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)  # fmt: skip
def download_file(session: ReadSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> FileResponse:
    """The file as it was uploaded, byte for byte."""
    dataset = store.get_dataset(session, user.id, dataset_id)
    files.bring(files.dataset_dir(dataset_id), [store.SOURCE])
    path = store.source_path(files, dataset_id)
    if not path.is_file():
        raise NotFound(f"The file of {dataset.name} is not there any more.")
    return FileResponse(path, media_type="application/octet-stream", filename=dataset.filename)


@router.get(
    "/{dataset_id}/examples.jsonl",
    operation_id="export_examples",
    summary="Export the examples as JSON lines",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}}},
)
def export_examples(session: ReadSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> StreamingResponse:
    """Every example in the internal form, one a line, texts unchanged."""
    dataset = get_ready(session, user.id, dataset_id)
    headers = {"content-disposition": f'attachment; filename="{dataset_id}.jsonl"'}
    return StreamingResponse(as_json_lines(files, dataset.id), media_type="application/jsonl", headers=headers)


@router.get(
    "/{dataset_id}/examples.csv",
    operation_id="export_table",
    summary="Export the responses as CSV",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
def export_table(session: ReadSession, files: CurrentFiles, user: CurrentUser, dataset_id: str) -> StreamingResponse:
    """One response a row. A cell that a spreadsheet would take for a formula gets an apostrophe before it."""
    dataset = get_ready(session, user.id, dataset_id)
    headers = {"content-disposition": f'attachment; filename="{dataset_id}.csv"'}
    return StreamingResponse(as_csv(files, dataset.id), media_type="text/csv; charset=utf-8", headers=headers)


def get_ready(session: ReadSession, owner_id: str, dataset_id: str) -> Dataset:
    """Raises: NotFound before the data set is ready: a stream that has begun can't say so any more."""
    dataset = store.get_dataset(session, owner_id, dataset_id)
    if dataset.state != DatasetState.READY:
        raise NotFound(not_ready(dataset))
    return dataset


def not_ready(dataset: Dataset) -> str:
    why = {
        DatasetState.PROCESSING: "is still being read: ask again when it is ready.",
        DatasetState.NEEDS_MAPPING: "waits for a mapping of its columns: POST one to its mapping first.",
        DatasetState.FAILED: "could not be read: its error says why.",
    }
    return f"The data set “{dataset.name}” {why.get(DatasetState(dataset.state), 'has no audit.')}"
