"""Coming in and going out: the one-time link, the form that takes its secret, and signing out. The only open doors."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response

from app.domain.errors import Unauthenticated
from app.services import accounts
from app.settings import Settings
from app.store.database import Database
from app.web.dependencies import CurrentDatabase, CurrentSettings, WriteSession, address_of, read_apart, write_apart
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
async def show_link(request: Request, secret: str, database: CurrentDatabase) -> Response:
    """A page with one button: previews and scanners open links by themselves, and must not use them up."""
    if await read_apart(request, is_signed_in, request, database):
        return RedirectResponse("/", status_code=303)
    return login_page(request, "/", secret=secret)


@router.post("/login/{secret}")
async def follow_link(request: Request, secret: str, settings: CurrentSettings, database: CurrentDatabase) -> Response:
    return await take_secret(request, secret, "/", settings, database)


@router.post("/login")
async def submit_login(
    request: Request,
    settings: CurrentSettings,
    database: CurrentDatabase,
    secret: Annotated[str, Form(max_length=2000)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Takes the secret alone or the whole link."""
    return await take_secret(request, secret.strip().rsplit("/", 1)[-1], own_path(next), settings, database)


@inner_router.post("/logout")
def sign_out(request: Request, session: WriteSession) -> Response:
    accounts.revoke(session, request.cookies.get(SESSION_COOKIE, ""), "session", address=address_of(request))
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


async def take_secret(request: Request, secret: str, target: str, settings: Settings, database: Database) -> Response:
    """Return a session cookie for a good secret; the login page again, with the reason, for a bad one.

    A bad secret costs a look at the database and no more, once its client has failed too often.

    Raises: TooManyRequests.
    """
    if await read_apart(request, is_good, database, secret):
        try:
            given = await write_apart(request, redeem, database, secret, settings.session_days, address_of(request))
        except Unauthenticated as error:  # somebody else was quicker with the same link
            return login_page(request, target, error.detail)
        return signed_in(given, target, settings)
    tries: FailedTries = request.app.state.failed_tries
    num_more = tries.note(address_of(request))
    detail = accounts.BAD_LINK
    if num_more is not None:
        detail = await write_apart(request, write_failure, database, secret, address_of(request), num_more)
    return login_page(request, target, detail)


def is_good(database: Database, secret: str) -> bool:
    with database.reading() as session:
        return accounts.is_good_link(session, secret)


def redeem(database: Database, secret: str, session_days: int, address: str) -> str:
    with database.writing() as session:
        return accounts.redeem_login(session, secret, session_days, address=address)


def write_failure(database: Database, secret: str, address: str, num_more: int) -> str:
    with database.writing() as session:
        return accounts.note_failure(session, secret, address, num_more=num_more)


def signed_in(session_secret: str, target: str, settings: Settings) -> Response:
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
