"""What can be done with endpoints: add, change, remove, try. Admins change them, everybody uses them. Nothing here commits.

A key is sealed for the endpoint and for the origin of its address (app.system.sealing): moved to another host it must be given
again, so that nobody who may change an address gets a key sent to a place of their own.
"""

import time
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy.orm import Session

from app.domain.answering.endpoint import EndpointChange, EndpointSource, NewEndpoint, origin_of
from app.domain.errors import Conflict, Forbidden, InvalidInput
from app.services import acts
from app.services.acts import Actor
from app.settings import Settings
from app.store.answering import endpoints as store
from app.store.database import Database, now
from app.store.tables import Endpoint
from app.system.identifiers import new_id
from app.system.outgoing.addresses import find_refusal
from app.system.outgoing.chat import ChatClient, ChatServer, EndpointFailed, Question
from app.system.outgoing.exchange import ExchangeLimits
from app.system.outgoing.pace import Retries
from app.system.sealing import SealBroken

TRIAL = Question([{"role": "user", "content": "Say hello in one short sentence."}], max_tokens=32, temperature=0.0)
TRIAL_LIMITS = ExchangeLimits(connect_seconds=5.0, first_byte_seconds=20.0, whole_seconds=20.0, most_bytes=2**20)
SHOWN_CHARACTERS = 120


@dataclass(frozen=True)
class Trial:
    """How an endpoint answered a first question: a sentence to show."""

    ok: bool
    sentence: str


def require_admin(actor: Actor) -> None:
    """Raises: Forbidden."""
    if not actor.is_admin:
        raise Forbidden("Only an admin may add or change endpoints: their keys are the studio's.")


def add(session: Session, settings: Settings, actor: Actor, asked: NewEndpoint) -> Endpoint:
    """Return the new endpoint. Raises Forbidden, Conflict for a taken name, InvalidInput for an address not let through."""
    require_admin(actor)
    refuse_taken(session, asked.name)
    refuse_address(settings, asked.address)
    endpoint = Endpoint(
        id=new_id("endpoint"), name=asked.name, address=asked.address, model=asked.model, sealed_key=None, at_once=asked.at_once,
        tokens_per_minute=asked.tokens_per_minute, created_at=now(session),
    )  # fmt: skip
    keep_key(settings, endpoint, asked.key)
    session.add(endpoint)
    acts.record(session, actor, "endpoint_changed", f"{endpoint.name} was added: {endpoint.model} at {endpoint.address}.")
    return endpoint


def change(session: Session, settings: Settings, actor: Actor, endpoint_id: str, asked: EndpointChange) -> Endpoint:
    """Return the endpoint with what is named changed. Raises as `add`, and InvalidInput where a key does not move with it."""
    require_admin(actor)
    endpoint = store.get_endpoint(session, endpoint_id)
    if asked.name is not None and asked.name != endpoint.name:
        refuse_taken(session, asked.name)
        endpoint.name = asked.name
    if asked.address is not None and asked.address != endpoint.address:
        refuse_address(settings, asked.address)
        moves = origin_of(asked.address) != origin_of(endpoint.address)
        if moves and endpoint.sealed_key is not None and asked.key is None:
            raise InvalidInput.at("key", "The key was given for another host: give it again for this one, or an empty one.")
        endpoint.address = asked.address
    if asked.key is not None:
        keep_key(settings, endpoint, asked.key)
    endpoint.model = asked.model or endpoint.model
    endpoint.at_once = asked.at_once or endpoint.at_once
    if "tokens_per_minute" in asked.model_fields_set:
        endpoint.tokens_per_minute = asked.tokens_per_minute
    named = ", ".join(sorted(asked.model_fields_set))
    acts.record(session, actor, "endpoint_changed", f"{endpoint.name}: {named.replace('_', ' ')} changed.")
    return endpoint


def remove(session: Session, actor: Actor, endpoint_id: str) -> None:
    """Forget the endpoint with its key; what it has answered and judged stays. Raises Forbidden, NotFound."""
    require_admin(actor)
    endpoint = store.get_endpoint(session, endpoint_id)
    session.delete(endpoint)
    acts.record(session, actor, "endpoint_changed", f"{endpoint.name} was removed.")


def refuse_taken(session: Session, name: str) -> None:
    if store.find_named(session, name) is not None:
        raise Conflict(f"There is an endpoint called “{name}” already: take another name.")


def refuse_address(settings: Settings, address: str) -> None:
    """Refuse at once what no request will go to; a name is judged when it is connected to. Raises InvalidInput."""
    host = urlsplit(address).hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return
    if refusal := find_refusal(host, host, settings.endpoint_allowed_hosts):
        raise InvalidInput.at("address", refusal)


def keep_key(settings: Settings, endpoint: Endpoint, key: SecretStr) -> None:
    """Seal the key for the endpoint where it is now; an empty one is no key."""
    sealer = store.open_sealer(settings, may_make=True)
    assert sealer is not None
    text = key.get_secret_value()
    endpoint.sealed_key = sealer.seal(text, belonging(endpoint)) if text else None


def belonging(endpoint: Endpoint) -> str:
    return f"{endpoint.id} {origin_of(endpoint.address)}"


def read_key(settings: Settings, endpoint: Endpoint) -> str:
    """Return the key, for the process that sends it; empty where there is none. Raises InvalidInput when it can't be opened."""
    if endpoint.sealed_key is None:
        return ""
    sealer = store.open_sealer(settings)
    try:
        if sealer is not None:
            return sealer.open(endpoint.sealed_key, belonging(endpoint))
    except SealBroken:
        pass
    raise InvalidInput(
        f"The key of the endpoint {endpoint.name} can't be opened here: it was sealed by another studio, or on a host with "
        "another STUDIO_SECRET. An admin can enter it again, or give all hosts the same STUDIO_SECRET."
    )


def describe_source(settings: Settings, endpoint: Endpoint) -> EndpointSource:
    """Return what a runner is told of the endpoint."""
    return EndpointSource(
        id=endpoint.id, name=endpoint.name, address=endpoint.address, model=endpoint.model,
        has_key=endpoint.sealed_key is not None, at_once=endpoint.at_once, tokens_per_minute=endpoint.tokens_per_minute,
        allowed_hosts=tuple(settings.endpoint_allowed_hosts),
    )  # fmt: skip


def prepare_trial(session: Session, settings: Settings, actor: Actor, endpoint_id: str) -> ChatServer:
    """Return the server to try, its key among it. Raises Forbidden, NotFound, InvalidInput for a key that can't be opened."""
    require_admin(actor)
    endpoint = store.get_endpoint(session, endpoint_id)
    return ChatServer(
        endpoint.name, endpoint.address, endpoint.model, read_key(settings, endpoint), at_once=1,
        allowed_hosts=settings.endpoint_allowed_hosts,
    )  # fmt: skip


def prepare_trial_within(database: Database, settings: Settings, actor: Actor, endpoint_id: str) -> ChatServer:
    """Return the server to try, from a session of its own that is over before the server is asked. Raises as `prepare_trial`."""
    with database.reading() as session:
        return prepare_trial(session, settings, actor, endpoint_id)


def try_out(server: ChatServer) -> Trial:
    """Ask one short question; whatever comes is told as a sentence. Outside of any session: it may take 25 s."""
    client, began = ChatClient(server, limits=TRIAL_LIMITS, retries=Retries(num_tries=1)), time.monotonic()
    try:
        said = client.ask(TRIAL)
    except EndpointFailed as error:
        return Trial(ok=False, sentence=str(error))
    finally:
        client.close()
    shown = " ".join(said.text.split())[:SHOWN_CHARACTERS]
    return Trial(ok=True, sentence=f"{server.model} answered in {time.monotonic() - began:.1f} s: “{shown}”")
