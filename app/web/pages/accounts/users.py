"""The users, for admins: who there is, and what can be done about each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, StudioError
from app.services import accounts as account_service
from app.services import users as service
from app.store import accounts as store
from app.store.accounts import UserRow
from app.store.database import now
from app.web.dependencies import CurrentActor, CurrentSettings, CurrentUser, ReadSession, WriteSession
from app.web.pages.accounts.account import account_page, place_of
from app.web.rendering.environment import Context, render

router = APIRouter()

Role = Annotated[str, Form(max_length=20)]


@dataclass(frozen=True, kw_only=True)
class UsersPage(Context):
    template = "accounts/users.html"

    rows: list[UserRow]
    detail: str  # why the last one could not be added
    name: str  # that was tried


def users_page(request: Request, session: Session, *, refusal: StudioError | None = None, name: str = "") -> HTMLResponse:
    rows = store.describe_users(session, now(session))
    page = UsersPage(rows=rows, detail="" if refusal is None else refusal.detail, name=name)
    return render(request, page, status=200 if refusal is None else refusal.status)


@router.get("/users")
def list_users(request: Request, session: ReadSession, actor: CurrentActor) -> HTMLResponse:
    service.require_admin(actor)
    return users_page(request, session)


@router.post("/users")
def add_user(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings,
    name: Annotated[str, Form(max_length=200)] = "", role: Role = "member",
) -> HTMLResponse:  # fmt: skip
    """The new user's page, with the login link on it, this once."""
    service.require_admin(actor)
    try:
        added = account_service.create_user(session, name.strip(), role, actor=actor)
    except (Conflict, InvalidInput) as refusal:
        return users_page(request, session, refusal=refusal, name=name)
    secret = account_service.create_login_link(session, added, actor=actor)
    link = f"{settings.url}/login/{secret}"
    return account_page(request, session, user, added.id, settings.token_days, link=link)


@router.get("/users/{user_id}")
def show_user(
    request: Request, session: ReadSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, user_id: str
) -> Response:
    service.require_admin(actor)
    if user_id == user.id:
        return RedirectResponse("/account", status_code=303)
    return account_page(request, session, user, user_id, settings.token_days)


@router.get("/users/{user_id}/login-link")
def leave_login_link(user_id: str) -> Response:
    """For who comes back to the address where a link was shown once: it can't be shown again."""
    return RedirectResponse(f"/users/{user_id}", status_code=303)


@router.post("/users/{user_id}/login-link")
def make_login_link(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, user_id: str
) -> HTMLResponse:
    service.require_admin(actor)
    try:
        secret = account_service.create_login_link(session, store.get_user_by_id(session, user_id), actor=actor)
    except Conflict as refusal:
        return account_page(request, session, user, user_id, settings.token_days, detail=refusal.detail, status=refusal.status)
    return account_page(request, session, user, user_id, settings.token_days, link=f"{settings.url}/login/{secret}")


@router.post("/users/{user_id}/{verb}")
def steer_user(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, user_id: str,
    verb: str, role: Role = "member", tokens: Annotated[bool, Form()] = False,
) -> Response:  # fmt: skip
    """disable, enable, remove, role, sign-out: then the user's page again, with the reason where it can't be."""
    acts: dict[str, Callable[[], object]] = {
        "disable": lambda: service.disable(session, actor, user_id),
        "enable": lambda: service.enable(session, actor, user_id),
        "remove": lambda: service.remove(session, actor, user_id),
        "role": lambda: service.change_role(session, actor, user_id, role),
        "sign-out": lambda: service.sign_out_everywhere(session, actor, user_id, tokens=tokens),
    }
    service.require_admin(actor)
    if verb not in acts:
        raise InvalidInput(f'A user can\'t be told to "{verb[:40]}"; there are {", ".join(acts)}.')
    try:
        acts[verb]()
    except Conflict as refusal:
        return account_page(request, session, user, user_id, settings.token_days, detail=refusal.detail, status=refusal.status)
    return RedirectResponse("/users" if verb == "remove" else place_of(user, user_id), status_code=303)
