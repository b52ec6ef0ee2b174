"""What a route may ask for: sessions, the files, the settings, and who is asking.

A WriteSession commits after the route returns and before the response is sent; it rolls back when the route raises.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app.domain.errors import Forbidden, Unauthenticated
from app.ingest.pool import IngestPool
from app.services import accounts
from app.settings import Settings
from app.store.bell import Bell
from app.store.database import Database
from app.store.files import Files
from app.web.security import SAFE_METHODS, SESSION_COOKIE


@dataclass(frozen=True)
class Identity:
    """Who is asking, and by which credential."""

    id: str
    name: str
    role: str  # "admin" | "member"
    scope: str  # "read" | "write"
    kind: str  # "session" | "api"


def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


def get_files(request: Request) -> Files:
    return cast(Files, request.app.state.files)


def get_ingest(request: Request) -> IngestPool:
    return cast(IngestPool, request.app.state.ingest)


def get_bell(request: Request) -> Bell:
    return cast(Bell, request.app.state.bell)


CurrentSettings = Annotated[Settings, Depends(get_settings)]
CurrentDatabase = Annotated[Database, Depends(get_database)]
CurrentFiles = Annotated[Files, Depends(get_files)]
CurrentIngest = Annotated[IngestPool, Depends(get_ingest)]
CurrentBell = Annotated[Bell, Depends(get_bell)]


def require_user(request: Request, database: CurrentDatabase) -> Identity:
    """The user of a bearer token or of the session cookie; stands before every route but login, health and static files.

    Raises: Unauthenticated; Forbidden when a read-only token tries to change something.
    """
    secret, kind = find_credential(request)
    with database.reading() as session:
        user, token = accounts.authenticate(session, secret, kind)
        identity = Identity(user.id, user.name, user.role, token.scope, token.kind)
    request.state.user = identity
    if request.method not in SAFE_METHODS and identity.scope != "write":
        raise Forbidden("This token may only read. Make one that may write: varstudio tokens create --scope write.")
    return identity


def find_credential(request: Request) -> tuple[str, str]:
    """A bearer token goes before the cookie: the origin check trusts that it is the one that counts."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip(), "api"
    if cookie := request.cookies.get(SESSION_COOKIE):
        return cookie, "session"
    raise Unauthenticated("Sign in first: in the browser by the login link, over REST with a bearer token.")


CurrentUser = Annotated[Identity, Depends(require_user)]


def read_session(database: CurrentDatabase, _user: CurrentUser) -> Iterator[Session]:
    with database.reading() as session:
        yield session


def write_session(database: CurrentDatabase, _user: CurrentUser) -> Iterator[Session]:
    with database.writing() as session:
        yield session


ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
