"""What a route may ask for: sessions, the files, the settings, and who is asking.

A WriteSession commits after the route returns and before the response is sent; it rolls back when the route raises.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy.orm import Session

from app.domain.errors import Forbidden, Unauthenticated, Unavailable
from app.services import accounts
from app.services.acts import Actor
from app.settings import Settings
from app.store.database import BUSY_SECONDS, Database
from app.store.files.files import Files
from app.system.gate import Gate
from app.web.security import SAFE_METHODS, SESSION_COOKIE, client_of

P = ParamSpec("P")
T = TypeVar("T")

NUM_IDENTIFIED, IDENTIFIED_OF_ONE = 4, 3  # at once: a lookup of a millisecond, for which more threads would only contend
NUM_READERS, READERS_OF_ONE = 24, 8  # below the number of threads (40) and of connections (50)
NUM_WRITERS, WRITERS_OF_ONE = 8, 6  # on PostgreSQL; SQLite has one
NUM_ERRANDS, ERRANDS_OF_ONE = 4, 2  # each perhaps with a child process
UPLOADS_AT_ONCE = 8  # of one user, from the first byte of the body until the file is read
ERRAND_SECONDS = 60.0
MOST_KNOWN = 10_000
BUSY = "Other requests are kept waiting as well: try again in a few seconds."


@dataclass(frozen=True)
class Identity:
    """Who is asking, and by which credential."""

    id: str
    name: str
    role: str  # "admin" | "member"
    scope: str  # "read" | "write"
    kind: str  # "session" | "api"
    token_id: str
    expires_at: datetime | None  # of the credential
    maker_id: str  # the API token that it is, or that its session began with; empty: none

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def get_files(request: Request) -> Files:
    return cast(Files, request.app.state.files)


CurrentSettings = Annotated[Settings, Depends(get_settings)]
CurrentDatabase = Annotated[Database, Depends(get_database)]
CurrentFiles = Annotated[Files, Depends(get_files)]


async def require_user(request: Request, database: CurrentDatabase) -> Identity:
    """Return the user; stands before every route but login, health and static files. Raises as `identify`."""
    known = getattr(request.state, "user", None)  # of a request with a body
    return known if isinstance(known, Identity) else await identify(request, database)


async def identify(request: Request, database: Database) -> Identity:
    """Return the user of a bearer token or of the session cookie, and keep who it is with the request.

    Raises: Unauthenticated; Forbidden when a read-only token tries to change something.
    """
    secret, kind = find_credential(request)
    identity = await knock(request, secret, look_up, database, secret, kind)
    request.state.user = identity
    if request.method not in SAFE_METHODS and identity.scope != "write":
        raise Forbidden("This token may only read. Make one that may write: varstudio tokens create --scope write.")
    return identity


def look_up(database: Database, secret: str, kind: str) -> Identity:
    """Return whose credential it is. Raises Unauthenticated."""
    with database.reading() as session:
        user, token = accounts.authenticate(session, secret, kind)
        maker_id = token.id if token.kind == "api" else token.maker_id
        return Identity(user.id, user.name, user.role, token.scope, token.kind, token.id, token.expires_at, maker_id)


def find_credential(request: Request) -> tuple[str, str]:
    """Prefer a bearer token to the cookie: the origin check trusts that it is the one that counts."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.strip():
        return secret.strip(), "api"
    if cookie := request.cookies.get(SESSION_COOKIE):
        return cookie, "session"
    raise Unauthenticated("Sign in first: in the browser by the login link, over REST with a bearer token.")


CurrentUser = Annotated[Identity, Depends(require_user)]


async def find_actor(request: Request, user: CurrentUser) -> Actor:
    """Return the user as one who acts, from where the request comes."""
    return Actor(user.id, is_admin=user.is_admin, name=user.name, address=address_of(request), token_id=user.maker_id)


CurrentActor = Annotated[Actor, Depends(find_actor)]


class Gates:
    """The gates of one event loop.

    A session is held while its route waits for a thread. If others waited for a session in all of the threads, none would
    be left for the one that holds it, and nothing would move until a timeout.
    """

    def __init__(self, num_writers: int) -> None:
        share = min(num_writers, WRITERS_OF_ONE)
        self.identifying = Gate(NUM_IDENTIFIED, IDENTIFIED_OF_ONE)
        self.reading = Gate(NUM_READERS, READERS_OF_ONE)
        self.writing = Gate(num_writers, share)
        self.writing_apart = Gate(num_writers, share)
        self.errands = Gate(NUM_ERRANDS, ERRANDS_OF_ONE)
        self.identifying_threads = CapacityLimiter(NUM_IDENTIFIED)
        self.writing_threads = CapacityLimiter(num_writers)
        self.errand_threads = CapacityLimiter(NUM_ERRANDS)
        self._good: OrderedDict[str, None] = OrderedDict()  # digests of credentials that let somebody in lately
        self._uploads: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def who_knocks(self, request: Request, digest: str) -> str:
        """Return who takes turns with whom before it is known who asks: good credentials, and of others each address."""
        return digest if digest in self._good else client_of(address_of(request))

    def note_good(self, digest: str) -> None:
        """Let a credential that let somebody in have turns of its own."""
        self._good[digest] = None
        self._good.move_to_end(digest)
        while len(self._good) > MOST_KNOWN:
            self._good.popitem(last=False)

    def uploads_of(self, user_id: str) -> asyncio.Semaphore:
        """Return where the uploads of one user wait for each other."""
        return self._uploads.setdefault(user_id, asyncio.Semaphore(UPLOADS_AT_ONCE))


def get_gates(request: Request) -> Gates:
    """Return the gates of this event loop."""
    known: WeakKeyDictionary[asyncio.AbstractEventLoop, Gates] = request.app.state.gates
    loop = asyncio.get_running_loop()
    if loop not in known:
        known[loop] = Gates(1 if request.app.state.database.is_sqlite else NUM_WRITERS)
    return known[loop]


async def knock(request: Request, credential: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that finds out who asks, in threads kept for such: few, so that a crowd neither opens a connection each nor
    waits behind other work. Raises as it does."""
    gates, digest = get_gates(request), accounts.digest_of(credential)
    async with passing(gates.identifying, gates.who_knocks(request, digest)):
        found = await to_thread.run_sync(partial(function, *args, **kwargs), limiter=gates.identifying_threads)
    gates.note_good(digest)
    return found


async def write_apart(request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that opens a writing session itself, in threads kept for such."""
    gates = get_gates(request)
    async with passing(gates.writing_apart, who_asks(request)):
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=gates.writing_threads)


async def read_apart(request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that opens a reading session itself, once there is room for one more reader."""
    async with passing(get_gates(request).reading, who_asks(request)):
        return await to_thread.run_sync(partial(function, *args, **kwargs))


async def run_errand(request: Request, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that waits for other processes, files or servers, for seconds, in threads kept for such."""
    gates = get_gates(request)
    async with passing(gates.errands, who_asks(request), ERRAND_SECONDS):
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=gates.errand_threads)


@asynccontextmanager
async def passing(gate: Gate, key: str, seconds: float = BUSY_SECONDS) -> AsyncIterator[None]:
    """Through the gate, or Unavailable: whoever waits behind others that wait for the database must not wait forever."""
    try:
        async with asyncio.timeout(seconds):
            await gate.acquire(key)
    except TimeoutError:
        raise Unavailable(BUSY) from None
    try:
        yield
    finally:
        gate.release(key)


def who_asks(request: Request) -> str:
    """Return who takes turns with whom: users, and of those who are not signed in each address."""
    user = getattr(request.state, "user", None)
    return str(user.id) if user is not None else client_of(address_of(request))


def address_of(request: Request) -> str:
    """Return the client's address; the server (uvicorn) has put there what a trusted proxy says of it."""
    return request.client.host if request.client else ""


async def read_session(request: Request, database: CurrentDatabase, user: CurrentUser) -> AsyncIterator[Session]:
    async with passing(get_gates(request).reading, user.id), contextmanager_in_threadpool(database.reading()) as session:
        yield session


async def write_session(request: Request, database: CurrentDatabase, user: CurrentUser) -> AsyncIterator[Session]:
    async with passing(get_gates(request).writing, user.id), contextmanager_in_threadpool(database.writing()) as session:
        yield session


ReadSession = Annotated[Session, Depends(read_session, scope="function")]
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
