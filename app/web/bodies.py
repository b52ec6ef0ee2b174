"""Which bodies are taken: from whom, of what kind, how large, of how many values, how slowly. Decided before any of it is read.

FastAPI reads a body before it asks who sends it, so all of this stands before the routes.
"""

import asyncio
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import Forbidden, TooLarge, TooSlow, UnsupportedMedia
from app.settings import Settings
from app.web.dependencies import identify
from app.web.security import SAFE_METHODS, SESSION_COOKIE, has_bearer, is_open_door

JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
UPLOAD_PATHS = frozenset(
    {
        "/api/v1/datasets", "/datasets/new", "/api/v1/prompt-sets/file", "/prompt-sets/file", "/api/v1/answers/file",
        "/answers/file",
    }
)  # fmt: skip
IMPORT_PATH = "/runs/new/import"  # takes a small file beside the launch form
MULTIPART_SLACK_BYTES = 2**20
MAX_JSON_BYTES = 2 * 2**20
MAX_FORM_BYTES = 2**18
MAX_OPEN_BYTES = 2**13
MAX_VALUES = 2000
SEPARATORS = {JSON: b",", FORM: b"&"}  # one between two values
GRACE_SECONDS = 20.0  # that a sender may let us wait, in all,
SLOWEST_BYTES_PER_SECOND = 2**13  # beyond the time that its bytes need at this rate


@dataclass(frozen=True)
class BodyRule:
    """What a path takes."""

    media: str
    max_bytes: int
    is_open: bool = False  # to senders who are not signed in

    @property
    def too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than the {self.max_bytes:,} bytes allowed here.")


def rule_of(path: str, settings: Settings) -> BodyRule:
    """Return the rule of a path, whatever is declared about the body."""
    if path in UPLOAD_PATHS:
        return BodyRule(MULTIPART, settings.max_upload_bytes + MULTIPART_SLACK_BYTES)
    if path == IMPORT_PATH:
        return BodyRule(MULTIPART, MULTIPART_SLACK_BYTES)
    if is_open_door(path):
        return BodyRule(FORM, MAX_OPEN_BYTES, is_open=True)
    return BodyRule(JSON, MAX_JSON_BYTES) if path.startswith("/api/") else BodyRule(FORM, MAX_FORM_BYTES)


class Bodies:
    """Lets a body through to the routes once its sender is known, and only as far as its path's rule allows."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(Request(scope)):
            await self.app(scope, receive, send)
            return
        request, rule = Request(scope), rule_of(scope["path"], self.settings)
        if scope["method"] in SAFE_METHODS:  # their routes read none
            await self.app(scope, receive, send)
            return
        check_media(request, rule)
        if declared_bytes(request) > rule.max_bytes:
            raise rule.too_large
        if not rule.is_open:
            await identify(request, scope["app"].state.database)
        await self.app(scope, PacedBody(receive, rule), send)


def has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def declared_bytes(request: Request) -> int:
    """Return the length that is announced, as far as it can be a length; 0 where none is."""
    text = request.headers.get("content-length", "")
    return int(text[:19]) if text.isascii() and text.isdigit() else 0


def check_media(request: Request, rule: BodyRule) -> None:
    """Refuse a body of another kind than its path takes; a plain HTML form of another site can't send JSON.

    Raises: Forbidden for a browser's session under /api, UnsupportedMedia otherwise. Strangers learn there only to sign in.
    """
    given = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if given == rule.media:
        return
    sentence = f'Send the body as {rule.media}; its Content-Type is "{given[:80] or "missing"}".'
    is_api = request.scope["path"].startswith("/api/")
    if not is_api or has_bearer(request):
        raise UnsupportedMedia(sentence)
    if SESSION_COOKIE in request.cookies:
        raise Forbidden(sentence)


class PacedBody:
    """`receive` that raises TooLarge or TooSlow once more has come, or more slowly, than the rule allows."""

    def __init__(self, receive: Receive, rule: BodyRule) -> None:
        self._receive, self._rule = receive, rule
        self._num_bytes = self._num_values = 0
        self._seconds_waited = 0.0
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        message = await self._wait()
        self._count(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        return message

    async def _wait(self) -> Message:
        began = time.monotonic()
        seconds = GRACE_SECONDS + self._num_bytes / SLOWEST_BYTES_PER_SECOND - self._seconds_waited
        try:
            async with asyncio.timeout(seconds):
                return await self._receive()
        except TimeoutError:
            raise TooSlow("The body came too slowly, so it was not waited for any longer. Send it again.") from None
        finally:
            self._seconds_waited += time.monotonic() - began

    def _count(self, piece: bytes) -> None:
        self._num_bytes += len(piece)
        if self._num_bytes > self._rule.max_bytes:
            raise self._rule.too_large
        if self._rule.media in SEPARATORS:
            self._num_values += piece.count(SEPARATORS[self._rule.media])
        if self._num_values > MAX_VALUES:
            raise TooLarge(f"The body holds more than the {MAX_VALUES:,} values allowed here.")
