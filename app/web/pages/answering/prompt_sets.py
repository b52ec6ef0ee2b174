"""Prompt sets: the list, the forms that make one, and the page of one with its prompts and what was answered."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersRequest
from app.domain.answering.prompt_set import PromptSetRequest
from app.domain.dataset import DatasetState
from app.domain.errors import InvalidInput, StudioError
from app.domain.problems import parse
from app.domain.recipe import Method
from app.domain.run import RunState
from app.services.answering import answers, prompt_sets
from app.store import models, runs
from app.store.answering import answers as answers_store
from app.store.answering import prompt_sets as store
from app.store.answering.answers import AnswersRow
from app.store.answering.endpoints import list_endpoints
from app.store.answering.lines import read_prompts
from app.store.database import Database
from app.store.datasets import list_datasets
from app.store.files.files import Files
from app.store.tables import Dataset, Endpoint, Model, PromptSet, Run
from app.web.answering.lists import create_prompt_set, take_outputs, take_prompts
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart, write_apart
from app.web.rendering.environment import Context, go_to, render

router = APIRouter()

PAGE_SIZE, PROMPTS_SHOWN, MOST_CHOICES = 30, 20, 100
NEW = {"name": "", "text": "", "source": "", "part": "test", "num_prompts": "200", "seed": "0", "private": ""}
ASK = {
    "model": "", "step": "", "n": "1", "max_new_tokens": "128", "temperature": "1", "top_p": "1", "seed": "0", "pattern": "",
    "prompt_format": "auto", "private": "",
}  # fmt: skip

After = Annotated[str, Query(max_length=60)]


@dataclass(frozen=True, kw_only=True)
class PromptSetsPage(Context):
    template = "prompt_sets/list.html"

    prompt_sets: list[PromptSet]
    mine: bool
    next_after: str


@dataclass(frozen=True, kw_only=True)
class NewPromptSetPage(Context):
    template = "prompt_sets/new.html"

    datasets: list[Dataset]
    runs: list[Run]
    values: Mapping[str, str]
    error: StudioError | None


@dataclass(frozen=True)
class Askable:
    """Who can be asked: policies and runs that give answers, reward models that judge them."""

    policies: list[Model]
    runs: list[Run]
    judges: list[Model]
    endpoints: list[Endpoint]  # which answer and judge


@dataclass(frozen=True, kw_only=True)
class PromptSetPage(Context):
    template = "prompt_sets/prompt_set.html"

    prompt_set: PromptSet
    prompts: list[dict[str, Any]]
    start: int
    size: int
    rows: list[AnswersRow]
    askable: Askable
    values: Mapping[str, str]
    judges: list[str]
    error: StudioError | None


@router.get("/prompt-sets")
def list_prompt_sets(
    request: Request, session: ReadSession, user: CurrentUser, mine: bool = False, after: After = ""
) -> HTMLResponse:
    found = store.list_prompt_sets(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    next_after = found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else ""
    return render(request, PromptSetsPage(prompt_sets=found[:PAGE_SIZE], mine=mine, next_after=next_after))


@router.get("/prompt-sets/new")
def new_prompt_set(
    request: Request, session: ReadSession, user: CurrentUser, run: After = "", dataset: After = ""
) -> HTMLResponse:
    """The forms; with a run or a data set, that is chosen."""
    source = f"run:{run}" if run else f"dataset:{dataset}" if dataset else ""
    return new_page(request, session, user.id, {**NEW, "source": source})


def new_page(
    request: Request, session: Session, owner_id: str, values: Mapping[str, str], error: StudioError | None = None
) -> HTMLResponse:
    found = runs.list_runs(session, owner_id, limit=MOST_CHOICES)
    context = NewPromptSetPage(
        datasets=list_datasets(session, owner_id, state=DatasetState.READY, limit=MOST_CHOICES),
        runs=[run for run in found if run.state == RunState.SUCCEEDED],
        values=values,
        error=error,
    )
    return render(request, context, status=error.status if error else 200)


@router.post("/prompt-sets/new")
async def make_prompt_set(request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser) -> Response:
    """The new prompt set's page; otherwise the form again with what is wrong."""
    async with request.form(max_fields=20, max_files=0) as form:
        values = {name: str(form.get(name, "")) for name in NEW}

    def make() -> str:
        asked = parse(PromptSetRequest, request_of(values), InvalidInput)
        return create_prompt_set(database, files, user.id, asked, private=values["private"] == "yes")

    try:
        made = await write_apart(request, make)
    except StudioError as error:
        return await read_apart(request, show_again, request, database, user.id, values, error)
    return RedirectResponse(f"/prompt-sets/{made}", status_code=303)


def request_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the request that the form speaks of: pasted text, unless a source is chosen."""
    kind, _, chosen = values["source"].partition(":")
    if kind not in ("run", "dataset"):
        return {"name": values["name"].strip(), "text": values["text"]}
    source = {kind: chosen, "num_prompts": values["num_prompts"].strip(), "seed": values["seed"].strip()}
    return {"name": values["name"].strip(), "source": source | ({"part": values["part"]} if kind == "run" else {})}


def show_again(
    request: Request, database: Database, owner_id: str, values: Mapping[str, str], error: StudioError
) -> HTMLResponse:
    with database.reading() as session:
        return new_page(request, session, owner_id, values, error)


@router.post("/prompt-sets/file")
async def upload_prompt_set(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    try:
        made = await take_prompts(request, user.id)
    except StudioError as error:
        return await read_apart(request, show_again, request, database, user.id, NEW, error)
    return RedirectResponse(f"/prompt-sets/{made}", status_code=303)


@router.get("/prompt-sets/{prompt_set_id}")
def show_prompt_set(
    request: Request, session: ReadSession, files: CurrentFiles, user: CurrentUser, prompt_set_id: str,
    start: Annotated[int, Query(ge=0, le=10**6)] = 0, model: Annotated[str, Query(max_length=120)] = "",
) -> HTMLResponse:  # fmt: skip
    """The page; with `model` (model:ID or run:ID), that is chosen in the form that asks."""
    return page(request, session, files, user.id, prompt_set_id, values={**ASK, "model": model}, start=start)


def page(
    request: Request, session: Session, files: Files, owner_id: str, prompt_set_id: str, *,
    values: Mapping[str, str], judges: list[str] | None = None, start: int = 0, error: StudioError | None = None,
) -> HTMLResponse:  # fmt: skip
    prompt_set = store.get_prompt_set(session, owner_id, prompt_set_id)
    asked = answers_store.list_answers(session, owner_id, prompt_set_id=prompt_set_id, limit=MOST_CHOICES)
    context = PromptSetPage(
        prompt_set=prompt_set,
        prompts=read_prompts(files, prompt_set, start, PROMPTS_SHOWN),
        start=start,
        size=PROMPTS_SHOWN,
        rows=answers_store.describe_answers(session, asked),
        askable=find_askable(session, owner_id),
        values=values,
        judges=judges or [],
        error=error,
    )
    return render(request, context, status=error.status if error else 200)


def find_askable(session: Session, owner_id: str) -> Askable:
    """Return who can be chosen: the newest policies, runs with a model at their end, and reward models."""
    ended = runs.list_runs(session, owner_id, state=RunState.SUCCEEDED, limit=MOST_CHOICES)
    return Askable(
        models.list_models(session, owner_id, kind="policy", limit=MOST_CHOICES),
        [run for run in ended if run.recipe.get("method") != Method.REWARD_MODEL],
        models.list_models(session, owner_id, kind="reward", limit=MOST_CHOICES),
        list_endpoints(session, limit=MOST_CHOICES),
    )


@router.post("/prompt-sets/{prompt_set_id}/ask")
async def ask(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser, prompt_set_id: str
) -> Response:
    """The answers' page; otherwise the prompt set's again with what is wrong."""
    async with request.form(max_fields=60, max_files=0) as form:
        values = {name: str(form.get(name, ""))[:1000].strip() for name in ASK}
        judges = [str(value) for value in form.getlist("judge")]

    def request_answers() -> str:
        asked = parse(AnswersRequest, answers_request_of(values, judges, prompt_set_id), InvalidInput)
        with database.writing() as session:
            return answers.request(session, user.id, asked, private=values["private"] == "yes").id

    def again(error: StudioError) -> HTMLResponse:
        with database.reading() as session:
            return page(request, session, files, user.id, prompt_set_id, values=values, judges=judges, error=error)

    try:
        made = await write_apart(request, request_answers)
    except InvalidInput as error:
        return await read_apart(request, again, error)
    return RedirectResponse(f"/answers/{made}", status_code=303)


def answers_request_of(values: Mapping[str, str], judges: list[str], prompt_set_id: str) -> dict[str, Any]:
    """Return the request that the form speaks of."""
    source, _, chosen = values["model"].partition(":")
    if source not in ("model", "run", "endpoint"):
        raise InvalidInput.at("model", "Choose the model that is to answer.")
    model: dict[str, Any] = {"source": source, source: chosen}
    if source == "run" and values["step"]:
        model["step"] = values["step"]
    sampling = {
        name: values[name] for name in ("max_new_tokens", "temperature", "top_p", "seed", "prompt_format") if values[name]
    }
    return {
        "prompt_set": prompt_set_id, "model": model, "n": values["n"] or 1, "sampling": sampling,
        "judges": judges_of(judges, values["pattern"]),
    }  # fmt: skip


WITH_MODEL = {"reward": "model", "llm": "endpoint"}  # what a judge calls its model


def judges_of(chosen: list[str], pattern: str) -> list[dict[str, Any]]:
    """Return the judges that are ticked: reward:ID, llm:ENDPOINT, length, exact; and a pattern where one is given."""
    found: list[dict[str, Any]] = []
    for one in chosen:
        kind, _, model = one.partition(":")
        found.append({"kind": kind} | ({WITH_MODEL[kind]: model} if kind in WITH_MODEL else {}))
    return [*found, {"kind": "pattern", "pattern": pattern}] if pattern else found


@router.post("/answers/file")
async def upload_answers(request: Request, user: CurrentUser) -> Response:
    """The answers' page, which says what did not match."""
    answers_id, remark = await take_outputs(request, user.id)
    return RedirectResponse(f"/answers/{answers_id}?{urlencode({'remark': remark})}", status_code=303)


@router.post("/prompt-sets/{prompt_set_id}/delete")
def delete_prompt_set(
    request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, prompt_set_id: str
) -> Response:
    prompt_sets.delete(session, files, user.id, prompt_set_id)
    return go_to(request, "/prompt-sets")
