"""Coming in and going out: the one-time link, the form that takes its secret, and signing out. The only open doors."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from app.domain.errors import Unauthenticated
from app.services import accounts
from app.web.dependencies import CurrentDatabase, CurrentSettings, WriteSession, write_apart
from app.web.rendering.environment import Context, render
from app.web.security import SESSION_COOKIE, FailedTries

router = APIRouter(include_in_schema=False)
inner_router = APIRouter(include_in_schema=False)

OWN_PATH = re.compile(r"/([^/\\].*)?")  # no second slash: that would be another host

Next = Annotated[str, Query(max_length=2000)]


@dataclass(frozen=True, kw_only=True)
class LoginPage(Context):
    template = "errors/login.html"

    next: str  # where to go afterwards: a path of ours
    secret: str  # of the link that was opened, for a button to send; empty: it is asked for
    detail: str  # why the last try failed; empty at first


@router.get("/login")
def show_login(request: Request, next: Next = "/") -> Response:
    return login_page(request, own_path(next))


@router.get("/login/{secret}")
def show_link(request: Request, secret: str, database: CurrentDatabase) -> Response:
    """A page with one button: previews and scanners open links by themselves, and must not use them up."""
    return RedirectResponse("/", status_code=303) if is_signed_in(request, database) else login_page(request, "/", secret=secret)


@router.post("/login/{secret}")
async def follow_link(request: Request, secret: str, settings: CurrentSettings, database: CurrentDatabase) -> Response:
    return await write_apart(request, sign_in, request, secret, "/", settings, database)


@router.post("/login")
async def submit_login(
    request: Request,
    settings: CurrentSettings,
    database: CurrentDatabase,
    secret: Annotated[str, Form(max_length=2000)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Takes the secret alone or the whole link."""
    return await write_apart(request, sign_in, request, secret.strip().rsplit("/", 1)[-1], own_path(next), settings, database)


@inner_router.post("/logout")
def sign_out(request: Request, session: WriteSession) -> Response:
    accounts.revoke(session, request.cookies.get(SESSION_COOKIE, ""), "session")
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


def sign_in(request: Request, secret: str, target: str, settings: CurrentSettings, database: CurrentDatabase) -> Response:
    """Return a session cookie for a good secret; the login page again, with the reason, for a bad one.

    Raises: TooManyRequests.
    """
    tries: FailedTries = request.app.state.failed_tries
    address = request.client.host if request.client else ""
    tries.check(address)
    try:
        with database.writing() as session:
            session_secret = accounts.redeem_login(session, secret, settings.session_days)
    except Unauthenticated as error:
        tries.note(address)
        return login_page(request, target, error.detail)
    response = RedirectResponse(target, status_code=303)
    response.set_cookie(
        SESSION_COOKIE,
        session_secret,
        max_age=settings.session_days * 86_400,
        httponly=True,
        samesite="lax",
        secure=settings.url.startswith("https://"),
        path="/",
    )
    return response


def is_signed_in(request: Request, database: CurrentDatabase) -> bool:
    try:
        with database.reading() as session:
            accounts.authenticate(session, request.cookies.get(SESSION_COOKIE, ""), "session")
    except Unauthenticated:
        return False
    return True


def login_page(request: Request, target: str, detail: str = "", *, secret: str = "") -> Response:
    page = LoginPage(next=target, detail=detail, secret=secret)
    return render(request, page, status=401 if detail else 200)


def own_path(target: str) -> str:
    """`target` when it is a path of ours, else "/": a login must not send people elsewhere."""
    return target if OWN_PATH.fullmatch(target) and target.isprintable() else "/"
