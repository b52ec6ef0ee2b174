"""REST: API tokens and browsers' sessions. Everybody sees, names, limits and revokes the own; admins those of all."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.services import accounts as service
from app.services import users as user_service
from app.store import accounts as store
from app.store.tables import Token
from app.web.api.paging import Page
from app.web.dependencies import CurrentActor, CurrentSettings, CurrentUser, Identity, ReadSession, WriteSession

router = APIRouter(prefix="/tokens", tags=["accounts"])

Days = Annotated[
    int | None, Field(ge=0, le=service.MAX_TOKEN_DAYS, description="Days from now; 0: no end; null: as STUDIO_TOKEN_DAYS says.")
]


class CredentialView(BaseModel):
    """An API token, or a browser that is signed in. Secrets are kept nowhere."""

    id: str = Field(examples=["token_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    kind: Literal["api", "session"]
    name: str
    scope: Literal["read", "write"]
    created_at: datetime
    expires_at: datetime | None = Field(description="null: it has no end.")
    address: str = Field(description="Of a session: from where the browser signed in; empty where that is not known.")
    is_this: bool = Field(description="Whether this very request came in by it.")


class NewToken(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=service.TOKEN_NAME_LENGTH, description="What it is for.")
    scope: Literal["read", "write"] = "write"
    days: Days = None


class MadeToken(CredentialView):
    secret: str = Field(description="The bearer token itself; shown this once.")


class TokenChange(BaseModel):
    """Only what is named is changed."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, max_length=service.TOKEN_NAME_LENGTH)
    days: Annotated[int | None, Field(ge=0, le=service.MAX_TOKEN_DAYS, description="Days from now; 0: no end.")] = None


NEW = {
    "month": {"summary": "For a month, to read", "value": {"name": "dashboard", "scope": "read", "days": 30}},
    "usual": {"summary": "As long as the studio's setting says", "value": {"name": "laptop"}},
}
CHANGES = {
    "name": {"summary": "Another name", "value": {"name": "old laptop"}},
    "end": {"summary": "It ends in a week", "value": {"days": 7}},
}


def show(token: Token, user: Identity) -> CredentialView:
    return CredentialView(
        id=token.id, kind=token.kind, name=token.name, scope=token.scope, created_at=token.created_at,
        expires_at=token.expires_at, address=token.address, is_this=token.id == user.token_id,
    )  # fmt: skip


@router.get("", operation_id="list_tokens", summary="List API tokens and signed-in browsers")
def list_tokens(
    session: ReadSession, user: CurrentUser, actor: CurrentActor,
    user_id: Annotated[str | None, Query(max_length=40, description="For admins: whose; empty: one's own.")] = None,
) -> Page[CredentialView]:  # fmt: skip
    """Newest first, tokens before browsers, on one page."""
    of = user_service.find_user(session, actor, user_id or user.id)
    tokens = [token for kind in ("api", "session") for token in store.list_tokens(session, of.id, kind)]
    return Page(items=[show(token, user) for token in tokens], next=None)


@router.post("", status_code=201, operation_id="make_token", summary="Make an API token")
def make_token(
    response: Response, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings,
    body: Annotated[NewToken, Body(openapi_examples=NEW)],
) -> MadeToken:  # fmt: skip
    """For oneself. The secret is shown this once. A token that is made by a token ends with that one."""
    owner = store.get_user_by_id(session, user.id)
    days = settings.token_days if body.days is None else body.days
    secret = service.create_token(session, owner, body.name, body.scope, days, actor=actor)
    _, token = service.authenticate(session, secret, "api")
    response.headers["cache-control"] = "no-store"
    return MadeToken(secret=secret, **show(token, user).model_dump())


@router.patch("/{token_id}", operation_id="change_token", summary="Rename an API token, give it another end")
def change_token(
    session: WriteSession, user: CurrentUser, actor: CurrentActor, token_id: str,
    body: Annotated[TokenChange, Body(openapi_examples=CHANGES)],
) -> CredentialView:  # fmt: skip
    """One's own, an admin also another's. 404 for others; 409 for a browser's session, which has neither."""
    _, token = service.change_token(session, actor, token_id, name=body.name, days=body.days)
    return show(token, user)


@router.delete("/{token_id}", status_code=204, operation_id="revoke_token", summary="Revoke an API token, sign a browser out")
def revoke_token(session: WriteSession, actor: CurrentActor, token_id: str) -> None:
    """One's own, an admin also another's. Streams and downloads that it opened end within seconds."""
    service.revoke_token(session, actor, token_id)
