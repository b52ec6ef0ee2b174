"""One account: its tokens, its signed-in browsers, what was done with it. One's own at /account, for admins each at /users/ID."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, NotFound
from app.services import accounts as service
from app.services import users as user_service
from app.store import accounts as store
from app.store.accounts import UserRow
from app.store.database import now
from app.store.tables import Act, Token
from app.web.dependencies import CurrentActor, CurrentSettings, CurrentUser, Identity, ReadSession, WriteSession
from app.web.rendering.environment import Context, render
from app.web.security import SESSION_COOKIE

router = APIRouter()

NUM_ACTS = 20
LIFETIMES = ((7, "a week"), (30, "30 days"), (90, "90 days"), (365, "a year"), (0, "without expiry"))

Name = Annotated[str, Form(max_length=200)]
Scope = Annotated[str, Form(max_length=20)]
Days = Annotated[int, Form()]


@dataclass(frozen=True, kw_only=True)
class AccountPage(Context):
    template = "accounts/account.html"

    row: UserRow
    is_own: bool
    tokens: list[Token]
    browsers: list[Token]
    own_token_id: str  # what this page itself came by
    acts: list[Act]
    lifetimes: list[tuple[int, str]]
    usual_days: int  # of a new token
    secret: str  # of a token that was just made; shown this once
    link: str  # a login link that was just made; shown this once
    detail: str  # why what was asked for can't be


def account_page(
    request: Request, session: Session, user: Identity, user_id: str, usual_days: int, *,
    secret: str = "", link: str = "", detail: str = "", status: int = 200,
) -> HTMLResponse:  # fmt: skip
    """Return the page of one account, which the caller has let the user see."""
    session.flush()
    rows = store.describe_users(session, now(session), user_id)
    if not rows:
        raise NotFound(f"There is no user {user_id!r}.")
    known = dict(LIFETIMES)
    usual = [] if usual_days in known else [(usual_days, f"{usual_days} days")]
    page = AccountPage(
        row=rows[0], is_own=user_id == user.id, tokens=store.list_tokens(session, user_id, "api"),
        browsers=store.list_tokens(session, user_id, "session"), own_token_id=user.token_id,
        acts=store.list_acts(session, of=user_id, limit=NUM_ACTS), lifetimes=[*usual, *LIFETIMES], usual_days=usual_days,
        secret=secret, link=link, detail=detail,
    )  # fmt: skip
    response = render(request, page, status=status)
    if secret or link:
        response.headers["cache-control"] = "no-store"
    return response


def place_of(user: Identity, user_id: str) -> str:
    return "/account" if user_id == user.id else f"/users/{user_id}"


@router.get("/account")
def show_account(request: Request, session: ReadSession, user: CurrentUser, settings: CurrentSettings) -> HTMLResponse:
    return account_page(request, session, user, user.id, settings.token_days)


@router.get("/account/tokens")
def leave_token() -> Response:
    """For who comes back to the address where a token was shown once: it can't be shown again."""
    return RedirectResponse("/account", status_code=303)


@router.post("/account/tokens")
def make_token(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, days: Days,
    name: Name = "", scope: Scope = "write",
) -> HTMLResponse:  # fmt: skip
    """The page again, with the secret on it, this once."""
    owner = store.get_user_by_id(session, user.id)
    try:
        secret = service.create_token(session, owner, name, scope, days, actor=actor)
    except InvalidInput as refusal:
        return account_page(request, session, user, user.id, settings.token_days, detail=refusal.detail, status=refusal.status)
    return account_page(request, session, user, user.id, settings.token_days, secret=secret)


@router.post("/account/sign-out")
def sign_out_everywhere(session: WriteSession, actor: CurrentActor, tokens: Annotated[bool, Form()] = False) -> Response:
    """Everywhere includes here."""
    user_service.sign_out_everywhere(session, actor, actor.id, tokens=tokens)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


@router.post("/tokens/{token_id}/revoke")
def revoke_token(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, token_id: str
) -> Response:
    """An API token or a browser's session."""
    return change(request, session, user, actor.is_admin, settings.token_days, token_id, lambda: service.revoke_token(
        session, actor, token_id
    ))  # fmt: skip


@router.post("/tokens/{token_id}/change")
def change_token(
    request: Request, session: WriteSession, user: CurrentUser, actor: CurrentActor, settings: CurrentSettings, token_id: str,
    name: Name = "", days: Annotated[str, Form(max_length=5)] = "",
) -> Response:  # fmt: skip
    """Empty days: its end stays as it is."""
    wanted = int(days) if days.isascii() and days.isdecimal() else None
    return change(request, session, user, actor.is_admin, settings.token_days, token_id, lambda: service.change_token(
        session, actor, token_id, name=name, days=wanted
    ))  # fmt: skip


def change(
    request: Request,
    session: Session,
    user: Identity,
    is_admin: bool,
    usual_days: int,
    token_id: str,
    action: Callable[[], object],
) -> Response:
    """Carry out a change of a token; then to the page of whose it is, or that page with the reason why not."""
    owner, _ = store.get_token(session, token_id)
    if owner.id != user.id and not is_admin:
        raise NotFound(f"There is no token {token_id!r} of yours.")
    try:
        action()
    except (Conflict, InvalidInput) as refusal:
        return account_page(request, session, user, owner.id, usual_days, detail=refusal.detail, status=refusal.status)
    return RedirectResponse(place_of(user, owner.id), status_code=303)
