"""Every request, from outside: its id, its line in the log, and its place in the metrics."""

import logging
import re
import secrets
import time
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.web.prometheus import RequestMetrics

log = logging.getLogger(__name__)

HEADER = "x-request-id"
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET_ROUTES = ("/static", "/healthz", "/metrics")  # asked for all the time
UNMATCHED = "unmatched"
STRANGERS = "strangers"
OPEN_ROUTES = frozenset({"/login", "/login/{secret}", "/healthz", "/static", UNMATCHED})
LEFT = 499  # the reader went away before the answer began


class Requests:
    """Outermost middleware: a request id (a proxy's, where it is a short plain word), which comes back in the answer.

    The path is logged as its route's template, so that neither a login link nor what a user typed gets into the log.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = choose_id(Headers(scope=scope).get(HEADER, ""))
        watched = WatchedRequest(scope, send, request_id, self.metrics)
        with logs.bound(request_id=request_id):
            try:
                await self.app(scope, watched.receiver(receive), watched.send)
            finally:
                watched.finish()


class WatchedRequest:
    """One request on its way: notes the status, and that a stream of events has opened."""

    def __init__(self, scope: Scope, send: Send, request_id: str, metrics: RequestMetrics) -> None:
        self.scope, self.request_id, self.metrics = scope, request_id, metrics
        self._send = send
        self._began = time.perf_counter()
        self._status = LEFT
        self._is_left = self._is_stream = False

    def receiver(self, receive: Receive) -> Receive:
        """Return `receive` that notes when the sender leaves before the answer has begun: nobody reads what is answered then."""

        async def watch() -> Message:
            message = await receive()
            self._is_left |= message["type"] == "http.disconnect" and self._status == LEFT
            return message

        return watch

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers[HEADER] = self.request_id
            self._status = LEFT if self._is_left else message["status"]
            if headers.get("content-type", "").startswith("text/event-stream"):
                self._is_stream = True
                self.metrics.viewers.inc()
        await self._send(message)

    def finish(self) -> None:
        """The answer is out, or its reader is gone."""
        seconds = time.perf_counter() - self._began
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        route = route_of(self.scope)
        if self._is_stream:
            self.metrics.viewers.dec()
        user = self.scope.get("state", {}).get("user")
        counted = route if user is not None or route in OPEN_ROUTES else STRANGERS  # who isn't signed in makes no series
        self.metrics.note(method, counted, self._status, None if self._is_stream else seconds)
        fields: dict[str, Any] = {
            "method": method, "path": route, "status": self._status, "milliseconds": round(1000 * seconds, 1),
            **({"user": user.id} if user is not None else {}),
        }  # fmt: skip
        level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
        log.log(level, "answered", extra={"fields": fields})


def choose_id(given: str) -> str:
    """Return the proxy's id where it can't be anything but a name, else a new one."""
    return given if SAFE_ID.fullmatch(given) else secrets.token_hex(8)


def route_of(scope: Scope) -> str:
    """Return the template of the route that answered, such as /api/v1/runs/{run_id}; static files are one route."""
    if str(scope["path"]).startswith("/static/"):
        return "/static"
    return templates_of(scope["app"]).get(scope.get("endpoint"), UNMATCHED) if "app" in scope else UNMATCHED


@lru_cache(maxsize=8)
def templates_of(app: FastAPI) -> dict[Any, str]:
    """Return the whole path of each endpoint. A route itself knows only its part of it, without the prefixes of its routers."""
    return {context.endpoint: str(context.path) for context in iter_route_contexts(app.routes) if context.endpoint is not None}
