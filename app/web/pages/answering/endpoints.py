"""Endpoints: which there are; for admins the forms that add and change them, and whether one answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.answering.endpoint import EndpointChange, NewEndpoint
from app.domain.errors import Conflict, InvalidInput, StudioError
from app.domain.problems import parse
from app.services.answering import endpoints as service
from app.services.answering.endpoints import Trial
from app.store.answering import endpoints as store
from app.store.tables import Endpoint
from app.web.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentSettings,
    ReadSession,
    WriteSession,
    read_apart,
    run_errand,
    write_apart,
)
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.form_words import tell_error

router = APIRouter()

PAGE_SIZE = 50
EMPTY = {"name": "", "address": "", "model": "", "at_once": "4", "tokens_per_minute": ""}  # a key is never filled in


@dataclass(frozen=True, kw_only=True)
class EndpointsPage(Context):
    template = "endpoints/list.html"

    endpoints: list[Endpoint]
    next_after: str
    may_change: bool
    values: Mapping[str, str]
    errors: Mapping[str, str]
    detail: str


@dataclass(frozen=True, kw_only=True)
class EndpointPage(Context):
    template = "endpoints/endpoint.html"

    endpoint: Endpoint
    values: Mapping[str, str]
    errors: Mapping[str, str]
    detail: str


@dataclass(frozen=True, kw_only=True)
class TrialPart(Context):
    template = "endpoints/_trial.html"

    endpoint: Endpoint
    trial: Trial


def values_of(endpoint: Endpoint) -> dict[str, str]:
    most = endpoint.tokens_per_minute
    return {
        "name": endpoint.name, "address": endpoint.address, "model": endpoint.model, "at_once": str(endpoint.at_once),
        "tokens_per_minute": "" if most is None else str(most),
    }  # fmt: skip


async def read_form(request: Request) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what was typed, to show it again, and what it asks for, the key among it."""
    async with request.form(max_fields=10, max_files=0) as form:
        values = {name: str(form.get(name, ""))[:1000].strip() for name in EMPTY}
        asked: dict[str, Any] = {**values, "tokens_per_minute": values["tokens_per_minute"] or None}
        if key := str(form.get("key", "")).strip():
            asked["key"] = key
        elif form.get("without_key"):
            asked["key"] = ""
    return values, asked


def faults_of(error: StudioError | None) -> dict[str, str]:
    return {str(fault["field"]): str(fault["message"]) for fault in (error.problems if error else []) if fault.get("field")}


def list_page(
    request: Request, session: Session, *, may_change: bool, values: Mapping[str, str] = EMPTY, after: str = "",
    error: StudioError | None = None,
) -> HTMLResponse:  # fmt: skip
    found = store.list_endpoints(session, after=after or None, limit=PAGE_SIZE + 1)
    context = EndpointsPage(
        endpoints=found[:PAGE_SIZE], next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "", may_change=may_change,
        values=values, errors=faults_of(error), detail=tell_error(error) if error else "",
    )  # fmt: skip
    return render(request, context, status=error.status if error else 200)


@router.get("/endpoints")
def list_endpoints(
    request: Request, session: ReadSession, actor: CurrentActor, after: Annotated[str, Query(max_length=60)] = ""
) -> HTMLResponse:
    return list_page(request, session, may_change=actor.is_admin, after=after)


@router.post("/endpoints")
async def add_endpoint(request: Request, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor) -> Response:
    """The new endpoint's page; otherwise the form again, with what is wrong beside its field."""
    values, asked = await read_form(request)

    def add() -> Response:
        try:
            with database.writing() as session:
                endpoint = service.add(session, settings, actor, parse(NewEndpoint, asked, InvalidInput))
        except (InvalidInput, Conflict) as error:
            with database.reading() as session:
                return list_page(request, session, may_change=actor.is_admin, values=values, error=error)
        return RedirectResponse(f"/endpoints/{endpoint.id}", status_code=303)

    return await write_apart(request, add)


@router.get("/endpoints/{endpoint_id}")
def show_endpoint(request: Request, session: ReadSession, actor: CurrentActor, endpoint_id: str) -> HTMLResponse:
    service.require_admin(actor)
    endpoint = store.get_endpoint(session, endpoint_id)
    return render(request, EndpointPage(endpoint=endpoint, values=values_of(endpoint), errors={}, detail=""))


@router.post("/endpoints/{endpoint_id}")
async def change_endpoint(
    request: Request, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor, endpoint_id: str
) -> Response:
    """Its page again, with what is wrong where something is."""
    values, asked = await read_form(request)

    def change() -> Response:
        try:
            with database.writing() as session:
                service.change(session, settings, actor, endpoint_id, parse(EndpointChange, asked, InvalidInput))
        except (InvalidInput, Conflict) as error:
            with database.reading() as session:
                endpoint = store.get_endpoint(session, endpoint_id)
                page = EndpointPage(endpoint=endpoint, values=values, errors=faults_of(error), detail=tell_error(error))
                return render(request, page, status=error.status)
        return RedirectResponse(f"/endpoints/{endpoint_id}", status_code=303)

    return await write_apart(request, change)


@router.post("/endpoints/{endpoint_id}/test")
async def try_endpoint(
    request: Request, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor, endpoint_id: str
) -> HTMLResponse:
    """Whether it answers, as a sentence beside the button."""
    server = await read_apart(request, service.prepare_trial_within, database, settings, actor, endpoint_id)

    def answer() -> HTMLResponse:
        trial = service.try_out(server)
        with database.reading() as session:
            return render(request, TrialPart(endpoint=store.get_endpoint(session, endpoint_id), trial=trial))

    return await run_errand(request, answer)


@router.post("/endpoints/{endpoint_id}/delete")
def remove_endpoint(request: Request, session: WriteSession, actor: CurrentActor, endpoint_id: str) -> Response:
    service.remove(session, actor, endpoint_id)
    return go_to(request, "/endpoints")
