"""Lists that are uploaded, prompt sets that take their time to gather, and data sets that are made of answers."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app.domain.answering.farm import FarmRequest
from app.domain.answering.prompt_set import PromptSetRequest
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.services.answering import farm, outputs, prompt_sets
from app.store.database import Database
from app.store.files.files import Files
from app.web.bodies import declared_bytes
from app.web.dependencies import write_apart
from app.web.uploads import Reception, open_form, taking_place, wait_for_reading

T = TypeVar("T")
MOST_BYTES = 32 * 2**20


def create_prompt_set(
    database: Database, files: Files, owner_id: str, asked: PromptSetRequest, filename: str = "", *, private: bool = False
) -> str:
    """Make a prompt set, whose prompts are gathered before the transaction that keeps it. Returns its id."""
    with database.reading() as session:
        gathered = prompt_sets.gather(session, files, owner_id, asked, filename=filename)
    with database.writing() as session:
        return prompt_sets.keep(session, files, owner_id, gathered, private=private).id


async def take_prompts(request: Request, owner_id: str) -> str:
    """Make a prompt set of a multipart request: `file`, perhaps `name`, `private`. Returns its id. Raises as `take_list`."""
    return await take_list(request, owner_id, "The prompts", keep_prompts)


async def take_outputs(request: Request, owner_id: str) -> tuple[str, str]:
    """Make answers of a multipart request: `file`, `prompt_set`, perhaps `name`, `private`. Returns their id, and
    what did not match.
    """
    return await take_list(request, owner_id, "The outputs", keep_outputs)


async def take_list(request: Request, owner_id: str, what: str, keep: Callable[[Database, Files, str, Reception, str], T]) -> T:
    """Return what `keep` makes of the text of an uploaded file. Raises InvalidInput, TooLarge."""
    state = request.app.state
    async with taking_place(request, owner_id):
        room = partial(state.database.disk.require_room, what)
        await run_in_threadpool(room, declared_bytes(request))
        with open_form(request, state.files, MOST_BYTES) as reception:
            await reception.read()
            text = await run_in_threadpool(read_text, reception)
            return await write_apart(request, keep, state.database, state.files, owner_id, reception, text)


def read_text(reception: Reception) -> str:
    """Return the uploaded file as text. Raises InvalidInput."""
    reception.upload.flush()
    try:
        return reception.upload.path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInput.at("file", "The file is no UTF-8 text: save it as UTF-8, as lines, JSON or JSON lines.") from None


def keep_prompts(database: Database, files: Files, owner_id: str, reception: Reception, text: str) -> str:
    asked = parse(PromptSetRequest, {"name": reception.form.text("name")[:120], "text": text}, InvalidInput)
    private = is_private(reception)
    return create_prompt_set(database, files, owner_id, asked, reception.form.filename or "", private=private)


def is_private(reception: Reception) -> bool:
    """Return what the form's field `private` says. Raises InvalidInput."""
    return parse(PrivateField, {"private": reception.form.text("private") or False}, InvalidInput).private


class PrivateField(BaseModel):
    private: bool


def keep_outputs(database: Database, files: Files, owner_id: str, reception: Reception, text: str) -> tuple[str, str]:
    form = reception.form
    with database.writing() as session:
        answers, remark = outputs.upload(
            session, files, owner_id, form.text("prompt_set"), text, name=form.text("name"), private=is_private(reception)
        )
        return answers.id, remark


async def grow(request: Request, owner_id: str, answers_id: str, asked: FarmRequest) -> str:
    """Make a data set of answers and wait a little for it to be read. Returns its id."""
    state = request.app.state
    async with taking_place(request, owner_id):
        dataset_id = await write_apart(request, keep_farm, state.database, state.files, owner_id, answers_id, asked)
        await wait_for_reading(request, owner_id, dataset_id)
        return dataset_id


def keep_farm(database: Database, files: Files, owner_id: str, answers_id: str, asked: FarmRequest) -> str:
    with database.writing() as session:
        return farm.make(session, files, owner_id, answers_id, asked).id
