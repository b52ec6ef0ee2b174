"""REST: endpoints. Everybody sees which there are; admins add, change, try and remove them. A key is never in an answer."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.answering.endpoint import EndpointChange, NewEndpoint
from app.services.answering import endpoints as service
from app.store.answering import endpoints as store
from app.store.tables import Endpoint
from app.web.api.paging import After, Limit, Page, to_page
from app.web.dependencies import CurrentActor, CurrentDatabase, CurrentSettings, ReadSession, WriteSession, read_apart, run_errand

router = APIRouter(prefix="/endpoints", tags=["models"])


class EndpointView(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    id: str = Field(examples=["endpoint_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    address: str
    model: str
    has_key: bool = Field(description="Whether a key is sent; the key itself is never shown.")
    at_once: int
    tokens_per_minute: int | None
    created_at: datetime


class EndpointTrial(BaseModel):
    ok: bool
    sentence: str = Field(description="What it answered, or why it did not and what to do.")


EXAMPLES = {
    "service": {
        "summary": "A service with a key",
        "value": {"name": "Judge", "address": "https://api.example.org/v1", "model": "large-instruct", "key": "sk-example"},
    },
    "own": {
        "summary": "A server of one's own, listed in STUDIO_ENDPOINT_ALLOWED_HOSTS",
        "value": {"name": "Lab", "address": "http://gpu-box:8000/v1", "model": "small-instruct", "at_once": 16},
    },
}
CHANGES = {
    "key": {"summary": "Another key", "value": {"key": "sk-example"}},
    "limits": {"summary": "Slower", "value": {"at_once": 2, "tokens_per_minute": 30000}},
}


def show(endpoint: Endpoint) -> EndpointView:
    return EndpointView(
        id=endpoint.id, name=endpoint.name, address=endpoint.address, model=endpoint.model,
        has_key=endpoint.sealed_key is not None, at_once=endpoint.at_once, tokens_per_minute=endpoint.tokens_per_minute,
        created_at=endpoint.created_at,
    )  # fmt: skip


@router.get("", operation_id="list_endpoints", summary="List endpoints")
def list_endpoints(session: ReadSession, _actor: CurrentActor, after: After = None, limit: Limit = 50) -> Page[EndpointView]:
    """Servers whose models answer and judge, newest first."""
    return to_page(store.list_endpoints(session, after=after, limit=limit + 1), limit, show, lambda row: row.id)


@router.post("", status_code=201, operation_id="add_endpoint", summary="Add an endpoint")
def add_endpoint(
    session: WriteSession, actor: CurrentActor, settings: CurrentSettings, response: Response,
    asked: Annotated[NewEndpoint, Body(openapi_examples=EXAMPLES)],
) -> EndpointView:  # fmt: skip
    """For admins. The key is kept sealed and never shown again; addresses that are not public must be allowed by a setting."""
    endpoint = service.add(session, settings, actor, asked)
    session.flush()
    response.headers["location"] = f"/api/v1/endpoints/{endpoint.id}"
    return show(endpoint)


@router.get("/{endpoint_id}", operation_id="get_endpoint", summary="Get an endpoint")
def get_endpoint(session: ReadSession, _actor: CurrentActor, endpoint_id: str) -> EndpointView:
    """One endpoint, without its key."""
    return show(store.get_endpoint(session, endpoint_id))


@router.patch("/{endpoint_id}", operation_id="change_endpoint", summary="Change an endpoint")
def change_endpoint(
    session: WriteSession, actor: CurrentActor, settings: CurrentSettings, endpoint_id: str,
    asked: Annotated[EndpointChange, Body(openapi_examples=CHANGES)],
) -> EndpointView:  # fmt: skip
    """For admins. An address at another host or port needs the key again. Runs that are under way go on as they began."""
    return show(service.change(session, settings, actor, endpoint_id, asked))


@router.delete("/{endpoint_id}", status_code=204, operation_id="remove_endpoint", summary="Remove an endpoint")
def remove_endpoint(session: WriteSession, actor: CurrentActor, endpoint_id: str) -> None:
    """For admins: forgets it with its key. What it has answered and judged stays."""
    service.remove(session, actor, endpoint_id)


@router.post("/{endpoint_id}/test", operation_id="try_endpoint", summary="Try an endpoint")
async def try_endpoint(
    request: Request, database: CurrentDatabase, settings: CurrentSettings, actor: CurrentActor, endpoint_id: str
) -> EndpointTrial:
    """For admins: asks one short question from the web's machine, once, for at most 25 s."""
    server = await read_apart(request, service.prepare_trial_within, database, settings, actor, endpoint_id)
    trial = await run_errand(request, service.try_out, server)
    return EndpointTrial(ok=trial.ok, sentence=trial.sentence)
