"""REST: prompt sets. Made from texts, data sets and runs; read, renamed, deleted."""

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Field

from app.domain.answering.prompt_set import Prompt, PromptOrigin, PromptSetFacts, PromptSetRequest
from app.services.answering import prompt_sets as service
from app.store.answering import prompt_sets as store
from app.store.answering.lines import read_prompts
from app.store.database import Database
from app.store.tables import PromptSet
from app.web.answering.lists import create_prompt_set, take_prompts
from app.web.api.forms import describe_form
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.sharing import PRIVATE_FIELD, ChangeBody, Mine, OwnedView, Private, change
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart, write_apart

router = APIRouter(prefix="/prompt-sets", tags=["prompt-sets"])


class PromptSetView(OwnedView):
    """A prompt set as lists show it."""

    id: str = Field(examples=["prompts_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    sha256: str = Field(description="Of the prompts: two sets with the same are the same.")
    num_prompts: int
    facts: PromptSetFacts
    source: PromptOrigin
    created_at: datetime


def show(prompt_set: PromptSet) -> PromptSetView:
    return PromptSetView.model_validate(prompt_set, from_attributes=True)


EXAMPLES = {
    "lines": {
        "summary": "Prompts, one a line",
        "value": {"name": "Ten questions", "text": "What is rain?\nWhy is the sky blue?"},
    },
    "run": {
        "summary": "What a run held out for its test",
        "value": {"source": {"run": "run_01kb4y7v3m2q8d5n6c9t0r1x2z", "part": "test", "num_prompts": 200}},
    },
    "dataset": {"summary": "Prompts of a data set", "value": {"source": {"dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z"}}},
}
FILE = describe_form(
    "Lines, JSON lines or a list in JSON.",
    {"name": {"type": "string", "maxLength": 120, "description": "Empty: the file's name."}, **PRIVATE_FIELD},
)


@router.post("", status_code=201, operation_id="create_prompt_set", summary="Make a prompt set")
async def make_prompt_set(
    asked: Annotated[PromptSetRequest, Body(openapi_examples=EXAMPLES)],
    request: Request,
    database: CurrentDatabase,
    files: CurrentFiles,
    user: CurrentUser,
    response: Response,
    private: Private = False,
) -> PromptSetView:
    """From text (one prompt a line, JSON lines, or a list: texts, Alpaca's instructions, MT-Bench's questions with several turns,
    messages), from a data set, or from what a run holds out. Long lists are uploaded as a file.
    """
    make = partial(create_prompt_set, private=private)
    made = await write_apart(request, make, database, files, user.id, asked)
    response.headers["location"] = f"/api/v1/prompt-sets/{made}"
    return await read_apart(request, find, database, user.id, made)


@router.post("/file", status_code=201, operation_id="upload_prompt_set", summary="Upload a list of prompts", openapi_extra=FILE)
async def upload_prompt_set(request: Request, database: CurrentDatabase, user: CurrentUser, response: Response) -> PromptSetView:
    """The same kinds of lists as text, from a file of up to 32 MiB."""
    made = await take_prompts(request, user.id)
    response.headers["location"] = f"/api/v1/prompt-sets/{made}"
    return await read_apart(request, find, database, user.id, made)


def find(database: Database, owner_id: str, prompt_set_id: str) -> PromptSetView:
    with database.reading() as session:
        return show(store.get_prompt_set(session, owner_id, prompt_set_id))


@router.get("", operation_id="list_prompt_sets", summary="List prompt sets")
def list_prompt_sets(
    session: ReadSession, user: CurrentUser, mine: Mine = False, after: After = None, limit: Limit = 50
) -> Page[PromptSetView]:
    """Newest first."""
    rows = store.list_prompt_sets(session, user.id, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, show, lambda row: row.id)


@router.get("/{prompt_set_id}", operation_id="get_prompt_set", summary="Get a prompt set")
def get_prompt_set(session: ReadSession, user: CurrentUser, prompt_set_id: str) -> PromptSetView:
    """One prompt set, without its prompts."""
    return show(store.get_prompt_set(session, user.id, prompt_set_id))


@router.get("/{prompt_set_id}/prompts", operation_id="list_prompts", summary="Read prompts")
def list_prompts(
    session: ReadSession,
    files: CurrentFiles,
    user: CurrentUser,
    prompt_set_id: str,
    start: Annotated[int, Query(ge=0, le=10**6, description="Index of the first.")] = 0,
    limit: Limit = 50,
) -> list[Prompt]:
    """The prompts by index. Two messages of the user in a row make a question of several turns."""
    prompt_set = store.get_prompt_set(session, user.id, prompt_set_id)
    return [Prompt.model_validate(row) for row in read_prompts(files, prompt_set, start, limit)]


@router.patch("/{prompt_set_id}", operation_id="change_prompt_set", summary="Rename a prompt set, make it private, or share it")
def change_prompt_set(session: WriteSession, user: CurrentUser, prompt_set_id: str, body: ChangeBody) -> PromptSetView:
    """Answers to it stay as they are."""
    return show(change(session, user.id, PromptSet, prompt_set_id, body))


@router.delete("/{prompt_set_id}", status_code=204, operation_id="delete_prompt_set", summary="Delete a prompt set")
def delete_prompt_set(session: WriteSession, files: CurrentFiles, user: CurrentUser, prompt_set_id: str) -> None:
    """409 while answers are to it, or comparisons on it."""
    service.delete(session, files, user.id, prompt_set_id)
