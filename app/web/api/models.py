"""REST: models. Taken from the hub, from an allowed folder or from a run, after a look at their files."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.domain.errors import InvalidInput, Unavailable
from app.domain.model import ModelKind, ModelOrigin, ModelRequest
from app.domain.preview.readings import ConversationReading
from app.services import models as service
from app.store import models as store
from app.store.tables import Model
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import ChangeBody, Mine, OwnedView, Private, change
from app.web.archives import as_zip
from app.web.dependencies import (
    CurrentDatabase,
    CurrentFiles,
    CurrentSettings,
    CurrentUser,
    ReadSession,
    WriteSession,
    run_errand,
    write_apart,
)
from app.web.errors import Fault
from app.web.reading_requests import TalkQuery, read

router = APIRouter(prefix="/models", tags=["models"])

EXAMPLE: dict[str, JsonValue] = {
    "id": "model_01kb4y7v3m2q8d5n6c9t0r1x2z",
    "owner_id": "user_01kb4y7v3m2q8d5n6c9t0r1x2z",
    "owner": "ada",
    "private": False,
    "name": "stories260K",
    "kind": "policy",
    "source": "folder",
    "path": "/models/stories260K",
    "revision": None,
    "facts": {"architecture": "LlamaForCausalLM", "num_parameters": 260032, "dtype": "float32", "has_chat_template": False},
    "created_at": "2026-01-31T12:00:00Z",
}


class ModelView(OwnedView):
    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    id: str
    name: str
    kind: ModelKind
    source: ModelOrigin
    path: str
    revision: str | None
    facts: dict[str, Any] = Field(description="What the files say: architecture, num_parameters, dtype, vocab_size, …")
    created_at: datetime


class ModelCheck(BaseModel):
    ok: bool
    problems: list[Fault] = Field(description="What is wrong with the files now, or with the chat template.")
    reading: ConversationReading | None = Field(description="A conversation as the model reads it, token by token.")
    reading_missing: str = Field(description="Why there is no reading.")


def show(model: Model) -> ModelView:
    return ModelView.model_validate(model)


EXAMPLES = {
    "hub": {"summary": "From the hub", "value": {"kind": "policy", "source": "hub", "name": "HuggingFaceTB/SmolLM2-135M"}},
    "folder": {"summary": "From a folder", "value": {"kind": "reward", "source": "folder", "path": "/models/reward"}},
    "run": {
        "summary": "What a run made",
        "value": {"kind": "policy", "source": "run", "run_id": "run_01kb4y7v3m2q8d5n6c9t0r1x2z", "name": "kind-v1"},
    },
}


CHECK_WAIT_SECONDS = 55.0  # a little more than a worker gives a chat template without an end, and less than clients wait


@router.post("", status_code=201, operation_id="add_model", summary="Add a model")
async def add_model(
    asked: Annotated[ModelRequest, Body(openapi_examples=EXAMPLES)],
    request: Request,
    database: CurrentDatabase,
    files: CurrentFiles,
    settings: CurrentSettings,
    user: CurrentUser,
    response: Response,
    private: Private = False,
) -> ModelView:
    """Looks at the files first: only safetensors weights, nothing outside the allowed folders, of the right kind. 409 names
    the model that a folder is already."""
    candidate = await run_errand(request, service.examine_within, database, files, settings, user.id, asked)
    added = await write_apart(request, service.add_within, database, files, user.id, candidate, private=private)
    response.headers["location"] = f"/api/v1/models/{added.id}"
    return show(added)


@router.get("", operation_id="list_models", summary="List models")
def list_models(
    session: ReadSession, user: CurrentUser, kind: ModelKind | None = None, mine: Mine = False, after: After = None,
    limit: Limit = 50,
) -> Page[ModelView]:  # fmt: skip
    """Newest first, all that you may see."""
    rows = store.list_models(session, user.id, kind=kind, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, show, lambda row: row.id)


@router.get("/{model_id}", operation_id="get_model", summary="Get a model")
def get_model(session: ReadSession, user: CurrentUser, model_id: str) -> ModelView:
    """One model with the facts its files told when it was added."""
    return show(store.get_model(session, user.id, model_id))


class CopyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "kind, seed 3"}]})

    name: str = Field(min_length=1, max_length=200, description="One line.")


@router.post("/{model_id}/copy", status_code=201, operation_id="copy_model", summary="Register a model under another name")
async def copy_model(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, model_id: str, body: CopyRequest,
    response: Response,
) -> ModelView:  # fmt: skip
    """The same model once more; what was taken from a run is kept a second time, so that either may be deleted."""
    copied = await run_errand(request, service.copy_within, database, files, user.id, model_id, body.name)
    response.headers["location"] = f"/api/v1/models/{copied.id}"
    return show(copied)


@router.get(
    "/{model_id}/model.zip", operation_id="archive_model", summary="Download a model", response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}}},
)  # fmt: skip
def archive_model(
    session: ReadSession, files: CurrentFiles, settings: CurrentSettings, user: CurrentUser, model_id: str
) -> StreamingResponse:
    """The model's folder as one zip archive. 404 for a model of the hub, whose files are there."""
    paths = service.list_files(session, files, settings, user.id, model_id)
    headers = {"content-disposition": f'attachment; filename="{model_id}.zip"'}
    return StreamingResponse(as_zip(paths), media_type="application/zip", headers=headers)


@router.get("/{model_id}/check", operation_id="check_model", summary="Check a model's files and how it reads")
async def check_model(
    request: Request,
    database: CurrentDatabase,
    settings: CurrentSettings,
    user: CurrentUser,
    model_id: str,
    query: Annotated[TalkQuery, Query()],
) -> ModelCheck:
    """Whether the files are still there and unchanged, and how the model reads a conversation, an example or yours: every token
    of prompt and response as they would be trained, what ends an answer, and what the chat template does otherwise than most.
    A worker reads it, from the hub the tokenizer alone; without one, `reading` is null and `reading_missing` says so.
    """
    asked = query.request(model_id)
    problems = await run_errand(request, service.check_within, database, settings, user.id, model_id)
    reading, missing = None, "The files are at fault." if problems else ""
    if not problems:
        try:
            reading = await read(request, user.id, asked, wait_seconds=CHECK_WAIT_SECONDS)
        except Unavailable as late:
            missing = late.detail
        except InvalidInput as invalid:
            missing, problems = invalid.detail, [*invalid.problems] or [{"field": "tokenizer", "message": invalid.detail}]
    assert reading is None or isinstance(reading, ConversationReading)
    if reading is not None and reading.unusable:
        problems = [{"field": "chat_template", "message": reading.unusable}]
    return ModelCheck(
        ok=not problems, problems=[Fault(**problem) for problem in problems], reading=reading, reading_missing=missing
    )


@router.patch("/{model_id}", operation_id="change_model", summary="Rename a model, make it private, or share it")
def change_model(session: WriteSession, user: CurrentUser, model_id: str, body: ChangeBody) -> ModelView:
    """Where it comes from stays as it is. While it is private, so is what is made with it, to all but its maker."""
    return show(change(session, user.id, Model, model_id, body))


@router.delete("/{model_id}", status_code=204, operation_id="delete_model", summary="Delete a model")
def delete_model(session: WriteSession, files: CurrentFiles, user: CurrentUser, model_id: str) -> None:
    """Forgets the model; a folder of yours stays. 409 while a run uses it."""
    service.delete(session, files, user.id, model_id)
