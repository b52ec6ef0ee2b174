"""REST: users. Admins add, disable, enable and remove them; everybody sees the own account and signs out everywhere."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.services import accounts as account_service
from app.services import users as service
from app.store import accounts as store
from app.store.accounts import UserRow
from app.store.database import now
from app.web.api.paging import Page
from app.web.dependencies import CurrentActor, CurrentSettings, CurrentUser, ReadSession, WriteSession

router = APIRouter(tags=["accounts"])

NO_STORE = {"cache-control": "no-store"}


class UserAccount(BaseModel):
    id: str = Field(examples=["user_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    role: Literal["admin", "member"]
    state: Literal["active", "disabled", "removed"]
    num_sessions: int = Field(description="Browsers that are signed in.")
    num_tokens: int = Field(description="API tokens that are good.")
    created_at: datetime


class OwnAccount(UserAccount):
    """One's own account, and what this request came in by."""

    credential: Literal["session", "api"] = Field(description="A browser's session, or an API token.")
    token_id: str
    scope: Literal["read", "write"]
    expires_at: datetime | None = Field(description="When this sign-in ends; null: it has no end.")


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=80, description="Small letters, digits and . _ @ -", examples=["ada"])
    role: Literal["admin", "member"] = "member"


class LoginLink(BaseModel):
    """Signs the user in once, within a day."""

    login_link: str = Field(description="Shown this once.")


class AddedUser(UserAccount, LoginLink):
    pass


class UserChange(BaseModel):
    """Only what is named is changed."""

    model_config = ConfigDict(extra="forbid")

    disabled: bool | None = None
    role: Literal["admin", "member"] | None = None


class SignOut(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: bool = Field(False, description="Revoke the API tokens too.")


class SignedOut(BaseModel):
    num_ended: int = Field(description="Browsers, login links and tokens that have ended.")


USERS = {"member": {"summary": "A member", "value": {"name": "ada"}}}
CHANGES = {
    "disable": {"summary": "Let in no more", "value": {"disabled": True}},
    "enable": {"summary": "Let in again", "value": {"disabled": False}},
    "promote": {"summary": "Make an admin", "value": {"role": "admin"}},
}
SIGN_OUTS = {
    "browsers": {"summary": "Browsers and login links", "value": {}},
    "all": {"summary": "API tokens too", "value": {"tokens": True}},
}
NOTHING_MORE = SignOut()
ChangeBody = Annotated[UserChange, Body(openapi_examples=CHANGES)]
SignOutBody = Annotated[SignOut, Body(openapi_examples=SIGN_OUTS)]


def facts_of(row: UserRow) -> dict[str, object]:
    user = row.user
    return {
        "id": user.id, "name": user.name, "role": user.role, "state": row.state, "num_sessions": row.num_sessions,
        "num_tokens": row.num_tokens, "created_at": user.created_at,
    }  # fmt: skip


def find_row(session: Session, user_id: str) -> UserRow:
    rows = store.describe_users(session, now(session), user_id)
    if not rows:
        raise NotFound(f"There is no user {user_id!r}.")
    return rows[0]


def show(session: Session, user_id: str) -> UserAccount:
    session.flush()
    return UserAccount.model_validate(facts_of(find_row(session, user_id)))


@router.get("/account", operation_id="get_account", summary="Get one's own account")
def get_account(session: ReadSession, user: CurrentUser) -> OwnAccount:
    """Who this request comes from, by which credential, and until when that is good."""
    return OwnAccount.model_validate(
        {
            **facts_of(find_row(session, user.id)),
            "credential": user.kind, "token_id": user.token_id, "scope": user.scope, "expires_at": user.expires_at,
        }
    )  # fmt: skip


@router.post("/account/sign-out", operation_id="sign_out", summary="Sign out everywhere")
def sign_out(session: WriteSession, actor: CurrentActor, body: SignOutBody = NOTHING_MORE) -> SignedOut:
    """Ends one's own browsers and login links, with `tokens` the API tokens too, this one among them."""
    return SignedOut(num_ended=service.sign_out_everywhere(session, actor, actor.id, tokens=body.tokens))


@router.get("/users", operation_id="list_users", summary="List users")
def list_users(session: ReadSession, actor: CurrentActor) -> Page[UserAccount]:
    """For admins: all by name, the removed ones last, on one page."""
    service.require_admin(actor)
    return Page(
        items=[UserAccount.model_validate(facts_of(row)) for row in store.describe_users(session, now(session))], next=None
    )


@router.post("/users", status_code=201, operation_id="add_user", summary="Add a user")
def add_user(
    response: Response, session: WriteSession, actor: CurrentActor, settings: CurrentSettings,
    body: Annotated[NewUser, Body(openapi_examples=USERS)],
) -> AddedUser:  # fmt: skip
    """For admins. The answer has the link that signs the user in once, within a day; it is shown this once."""
    service.require_admin(actor)
    user = account_service.create_user(session, body.name, body.role, actor=actor)
    secret = account_service.create_login_link(session, user, actor=actor)
    response.headers.update(NO_STORE)
    return AddedUser(login_link=f"{settings.url}/login/{secret}", **show(session, user.id).model_dump())


@router.get("/users/{user_id}", operation_id="get_user", summary="Get a user")
def get_user(session: ReadSession, actor: CurrentActor, user_id: str) -> UserAccount:
    """One user, for admins; anybody may get the own."""
    return show(session, service.find_user(session, actor, user_id).id)


@router.patch("/users/{user_id}", operation_id="change_user", summary="Disable or enable a user, change the role")
def change_user(session: WriteSession, actor: CurrentActor, user_id: str, body: ChangeBody) -> UserAccount:
    """For admins. Who is disabled is signed out everywhere, and API tokens are refused until the account is enabled; runs go on.
    409 for the last admin who can come in."""
    service.require_admin(actor)
    if body.role is not None:
        service.change_role(session, actor, user_id, body.role)
    if body.disabled is not None:
        (service.disable if body.disabled else service.enable)(session, actor, user_id)
    return show(session, user_id)


@router.delete("/users/{user_id}", status_code=204, operation_id="remove_user", summary="Remove a user")
def remove_user(session: WriteSession, actor: CurrentActor, user_id: str) -> None:
    """For admins, and for good: sign-ins and tokens end, runs that have not ended are cancelled, the name is free again. What the
    user made stays. 409 for the last admin who can come in."""
    service.remove(session, actor, user_id)


@router.post("/users/{user_id}/sign-out", operation_id="sign_out_user", summary="Sign a user out everywhere")
def sign_out_user(session: WriteSession, actor: CurrentActor, user_id: str, body: SignOutBody = NOTHING_MORE) -> SignedOut:
    """For admins: ends the user's browsers and login links, with `tokens` the API tokens too. Streams end within seconds."""
    return SignedOut(num_ended=service.sign_out_everywhere(session, actor, user_id, tokens=body.tokens))


@router.post("/users/{user_id}/login-link", status_code=201, operation_id="make_login_link", summary="Make a login link")
def make_login_link(
    response: Response, session: WriteSession, actor: CurrentActor, settings: CurrentSettings, user_id: str
) -> LoginLink:
    """For admins: signs the user in once, within a day; older links of the user end. It is shown this once. Made by an API token,
    the link and the session it leads to end with that token."""
    service.require_admin(actor)
    secret = account_service.create_login_link(session, store.get_user_by_id(session, user_id), actor=actor)
    response.headers.update(NO_STORE)
    return LoginLink(login_link=f"{settings.url}/login/{secret}")
