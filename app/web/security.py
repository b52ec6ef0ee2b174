"""Who may speak to the web: hosts, origins, kinds and sizes of bodies, and the headers that every answer carries."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import Forbidden, NotFound, StudioError, TooLarge, TooManyRequests, UnsupportedMedia, WrongHost
from app.settings import Settings
from app.web.errors import answer, problem_response

log = logging.getLogger(__name__)

SESSION_COOKIE = "studio_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
UPLOAD_PATH = "/api/v1/datasets"
MAX_BODY_BYTES = 4 * 2**20
MULTIPART_SLACK_BYTES = 2**20

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # no-referrer would make browsers send "Origin: null" with our own forms
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Guard:
    """Refuses what no route should see, and adds the security headers to every answer; only `Requests` stands outside of it.

    It also turns an unexpected exception into an answer itself: Starlette's last resort would answer outside of this
    middleware, without the headers.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

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
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        try:
            check_request(request, self.settings)
            await self.app(scope, bounded(receive, body_limit(request, self.settings)), send_with_headers)
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
    """Return the path for the log; a login link is a secret until it is used."""
    path = str(scope["path"])
    return "/login/…" if path.startswith("/login/") else path


class HideLoginSecrets(logging.Filter):
    """Keeps the secrets of login links out of the server's access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                "/login/…" if isinstance(value, str) and value.startswith("/login/") else value for value in record.args
            )
        return True


def check_request(request: Request, settings: Settings) -> None:
    """Refuse a foreign host, a foreign origin, a body of the wrong kind or of too many announced bytes."""
    check_host(request.headers, settings)
    if "\0" in request.url.path:
        raise NotFound("There is nothing at this address.")
    if request.method in SAFE_METHODS:
        return
    check_origin(request, settings)
    check_media(request)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > body_limit(request, settings):
        raise too_large(body_limit(request, settings))


def check_host(headers: Headers, settings: Settings) -> None:
    """A name that resolves to us but isn't ours means DNS rebinding.

    Raises: WrongHost (400).
    """
    host = urlsplit(f"//{headers.get('host', '')}").netloc.lower()
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    public = urlsplit(settings.public_url).hostname
    if name not in settings.allowed_hosts and name != public:
        raise WrongHost(
            f'This studio doesn\'t answer to the host name "{name}". Add it to STUDIO_ALLOWED_HOSTS, or set STUDIO_PUBLIC_URL.'
        )


def has_bearer(request: Request) -> bool:
    return request.headers.get("authorization", "").lower().startswith("bearer ")


def check_origin(request: Request, settings: Settings) -> None:
    """A browser that carries our cookie must come from our own pages; bearer tokens are never sent by themselves.

    Raises: Forbidden.
    """
    if has_bearer(request):
        return
    origin = request.headers.get("origin")
    signing_in = (request.url.path == "/login" or request.url.path.startswith("/login/")) and origin is not None
    if SESSION_COOKIE not in request.cookies and not signing_in:
        return
    if origin is None or origin.lower() not in own_origins(request, settings):
        raise Forbidden("This request didn't come from one of the studio's own pages. Open the studio and try again there.")


def own_origins(request: Request, settings: Settings) -> set[str]:
    public = urlsplit(settings.public_url)
    scheme = public.scheme or request.url.scheme
    origins = {f"{scheme}://{request.headers.get('host', '')}".lower()}
    if public.netloc:
        origins.add(f"{public.scheme}://{public.netloc}".lower())
    return origins


def check_media(request: Request) -> None:
    """Bodies under /api are JSON, or multipart for an upload; a plain HTML form of another site can't send JSON.

    Raises: Forbidden for a browser's session, UnsupportedMedia for a bearer token.
    """
    path, headers = request.url.path, request.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if not path.startswith("/api/") or not has_body:
        return
    wanted = "multipart/form-data" if path == UPLOAD_PATH else "application/json"
    given = headers.get("content-type", "").split(";")[0].strip().lower()
    if given == wanted:
        return
    sentence = f'Send the body as {wanted}; its Content-Type is "{given or "missing"}".'
    if has_bearer(request):
        raise UnsupportedMedia(sentence)
    if SESSION_COOKIE in request.cookies:
        raise Forbidden(sentence)


def body_limit(request: Request, settings: Settings) -> int:
    is_multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    return settings.max_upload_bytes + MULTIPART_SLACK_BYTES if is_multipart else MAX_BODY_BYTES


def too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit_bytes:,} bytes allowed here.")


def bounded(receive: Receive, limit_bytes: int) -> Receive:
    """`receive` that raises TooLarge once more than `limit_bytes` have come, whatever Content-Length said."""
    num_bytes = 0

    async def receive_bounded() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit_bytes:
            raise too_large(limit_bytes)
        return message

    return receive_bounded


class FailedTries:
    """How often each address failed lately; one address's failures don't touch another's, and memory is bounded."""

    def __init__(
        self,
        limit: int = 10,
        window_seconds: float = 60.0,
        max_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.window_seconds = window_seconds
        self.max_addresses = max_addresses
        self.clock = clock
        self.failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raises: TooManyRequests, with the seconds until the next try."""
        since, count = self.failures.get(address, (self.clock(), 0))
        seconds_left = since + self.window_seconds - self.clock()
        if count >= self.limit and seconds_left > 0:
            raise TooManyRequests(
                f"Too many failed tries from this address. Wait {seconds_left:.0f} seconds.",
                retry_after_seconds=int(seconds_left) + 1,
            )

    def note(self, address: str) -> None:
        now = self.clock()
        since, count = self.failures.pop(address, (now, 0))
        self.failures[address] = (now, 1) if now - since > self.window_seconds else (since, count + 1)
        while len(self.failures) > self.max_addresses:
            self.failures.popitem(last=False)
