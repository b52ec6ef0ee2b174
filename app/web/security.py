"""Who may speak to the web: hosts, origins, and the headers that every answer carries."""

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import Forbidden, NotFound, StudioError, TooManyRequests, WrongHost
from app.settings import Settings
from app.web.errors import answer, problem_response

log = logging.getLogger(__name__)

SESSION_COOKIE = "studio_session"
VOTER_COOKIE = "studio_voter"  # of who came by a vote link; each has the path of its own booth
SECRET = re.compile(r"/login/|/vote/(?!booth/)")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[^\[\]:/?#@\\\s]+)(:\d{0,5})?")

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # no-referrer would make browsers send "Origin: null" with our own forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",  # what is behind the sign-in stays in no cache, shared or of the browser
}
HSTS = {"strict-transport-security": "max-age=31536000"}


class Guard:
    """Refuses what no route should see, and adds the security headers to every answer; only `Requests` stands outside of it.

    It also turns an unexpected exception into an answer itself: Starlette's last resort would answer outside of this
    middleware, without the headers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.headers = SECURITY_HEADERS | (HSTS if settings.url.startswith("https://") else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        try:
            check_request(request, self.settings)
            await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:  # nobody is there to answer to
            log.info("%s %s: its sender has left", scope["method"], route_path(scope))
        except StudioError as error:
            if started:
                raise
            await answer(request, error)(scope, receive, send_with_headers)
        except Exception:
            if started:
                raise
            log.exception("%s %s failed", scope["method"], route_path(scope))
            await answer_unexpected(request)(scope, receive, send_with_headers)


UNEXPECTED = "An unexpected error occurred. It has been written to the server's log; please try again."


def answer_unexpected(request: Request) -> Response:
    """Return the answer to what nobody foresaw, even when the error page itself is broken."""
    error = StudioError(UNEXPECTED)
    try:
        return answer(request, error)
    except Exception:
        log.exception("the error page failed")
        return problem_response(request, error, {})


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return the path for the log; a login link and a vote link are secrets."""
    return hide_secret(str(scope["path"]))


def hide_secret(path: str) -> str:
    """Return the path without the secret that it may end with."""
    found = SECRET.match(path)
    return f"{found[0]}…" if found else path


class HideLoginSecrets(logging.Filter):
    """Keeps the secrets of login and vote links out of the server's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(hide_secret(value) if isinstance(value, str) else value for value in record.args)
        return True


def check_request(request: Request, settings: Settings) -> None:
    """Refuse a foreign host and a foreign origin."""
    check_host(request.headers, settings)
    if "\0" in request.scope["path"]:
        raise NotFound("There is nothing at this address.")
    if request.method not in SAFE_METHODS:
        check_origin(request, settings)


def check_host(headers: Headers, settings: Settings) -> None:
    """A name that resolves to us but isn't ours means DNS rebinding. What passes can be read as an address.

    Raises: WrongHost (400).
    """
    found = HOST.fullmatch(headers.get("host", "").lower())
    name = found["name"] if found else ""
    public = urlsplit(settings.public_url).hostname
    if not name or (name not in settings.allowed_hosts and name != public):
        raise WrongHost(
            f'This studio doesn\'t answer to the host name "{name}". Add it to STUDIO_ALLOWED_HOSTS, or set STUDIO_PUBLIC_URL.'
        )


def has_bearer(request: Request) -> bool:
    return request.headers.get("authorization", "").lower().startswith("bearer ")


def is_open_door(path: str) -> bool:
    """Return whether the path is one of those through which one signs in, or comes to vote."""
    return path == "/login" or path.startswith(("/login/", "/vote/"))


def check_origin(request: Request, settings: Settings) -> None:
    """A browser that carries our cookie must come from our own pages; bearer tokens are never sent by themselves.

    Raises: Forbidden.
    """
    if has_bearer(request):
        return
    origin = request.headers.get("origin")
    comes_in = is_open_door(request.scope["path"]) and origin is not None
    if not comes_in and not {SESSION_COOKIE, VOTER_COOKIE} & request.cookies.keys():
        return
    if origin is None or origin.lower() not in own_origins(request, settings):
        raise Forbidden("This request didn't come from one of the studio's own pages. Open the studio and try again there.")


def own_origins(request: Request, settings: Settings) -> set[str]:
    public = urlsplit(settings.public_url)
    scheme = public.scheme or request.scope["scheme"]
    origins = {f"{scheme}://{request.headers.get('host', '')}".lower()}
    if public.netloc:
        origins.add(f"{public.scheme}://{public.netloc}".lower())
    return origins


class FailedTries:
    """How often each client failed to sign in lately. Only wrong secrets are counted and only wrong ones refused: a right one
    passes whatever others have tried from the same address (nobody guesses 256 bits). Memory is bounded.

    It also says which failures are written into the log of acts: of each client those below its limit, of all together a few a
    minute, so that strangers can't fill the database.
    """

    def __init__(
        self,
        limit: int = 10,
        window_seconds: float = 60.0,
        max_clients: int = 10_000,
        max_written: int = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.window_seconds = window_seconds
        self.max_clients = max_clients
        self.max_written = max_written
        self.clock = clock
        self.failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.written_since, self.num_written, self.num_unwritten = clock(), 0, 0

    def note(self, address: str) -> int | None:
        """Count one more failure of this client; returns how many others were not written since the last that was, None when this
        one isn't to be written either.

        Raises: TooManyRequests, with the seconds until the next try.
        """
        client, now = client_of(address), self.clock()
        since, count = self.failures.pop(client, (now, 0))
        since, count = (now, 1) if now - since > self.window_seconds else (since, count + 1)
        self.failures[client] = (since, count)
        while len(self.failures) > self.max_clients:
            self.failures.popitem(last=False)
        if count > self.limit:
            seconds_left = since + self.window_seconds - now
            raise TooManyRequests(
                f"Too many failed tries from this address. Wait {seconds_left:.0f} seconds.",
                retry_after_seconds=int(seconds_left) + 1,
            )
        return self._take_line(now)

    def _take_line(self, now: float) -> int | None:
        if now - self.written_since > self.window_seconds:
            self.written_since, self.num_written = now, 0
        if self.num_written >= self.max_written:
            self.num_unwritten += 1
            return None
        self.num_written += 1
        num_unwritten, self.num_unwritten = self.num_unwritten, 0
        return num_unwritten


def client_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 network that one IPv6 line has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or ip_network((parsed.packed, 64), strict=False))
    return str(parsed)
