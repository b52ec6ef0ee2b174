"""Whatever the head of a request holds, the studio answers, and blames nobody's nonsense on itself."""

import asyncio
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PATHS = (
    "/",
    "/login",
    "/login/x",
    "/healthz",
    "/static/studio.css",
    "/api/v1/runs",
    "/datasets/new",
    "/runs/new",
    "/metrics",
    "/docs",
)
KNOWN = {
    "host": ("127.0.0.1:8400", "[::1", "[::1]:8400", "localhost", "127.0.0.1@x", "]", "", "a" * 300, "\u00e9"),
    "origin": ("http://127.0.0.1:8400", "null", "http://[", "//[", "\u00e9"),
    "authorization": ("Bearer ", "Bearer \u00e9", "Bearer x", "bearer", "Basic eDp4", ""),
    "cookie": ("studio_session=x", "studio_session=", "=;=;", 'studio_session="', "\u00e9=\u00e9"),
    "content-type": (
        "application/json",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        ";",
        "a/b; charset=none",
        "\u00e9",
    ),
    "content-length": ("0", "2", "-1", "1e3", "9" * 40, "9" * 9000, "\u0662", ""),
    "transfer-encoding": ("chunked", "identity", ""),
    "accept": ("*/*", ";;", "\u00e9"),
    "range": ("bytes=0-", "bytes=-", "bytes=9-1", "x"),
    "if-modified-since": ("x", "Sun, 99 Nov 2026"),
    "last-event-id": ("9" * 400, "-1", "x"),
    "hx-request": ("true", ""),
    "x-request-id": ("x", "\u00e9" * 80),
    "idempotency-key": ("x" * 400, "\u00e9"),
}
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)
HEADERS = st.fixed_dictionaries({}, optional={name: st.sampled_from(known) | VALUES for name, known in KNOWN.items()})
TARGETS = st.sampled_from(PATHS) | st.text(max_size=30).map(lambda text: f"/{text}")
QUERIES = st.sampled_from([b"", b"next=//[", b"next=http://[", b"after=%00", b"limit=9" * 30, b"%ff=%ff", b"&&=;="]) | st.binary(
    max_size=40
)


async def ask(app: Any, method: str, path: str, query: bytes, headers: dict[str, str], body: bytes) -> int:
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode("utf-8", "replace"), "query_string": query,
        "headers": raw, "scheme": "http", "server": ("127.0.0.1", 8400), "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    waiting, statuses = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> dict[str, Any]:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

    await app(scope, receive, send)
    return int(statuses[0])


def test_no_head_is_an_error_of_the_studio(studio: Any) -> None:
    senders = st.sampled_from([{}, {"authorization": f"Bearer {studio.token}"}])
    methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])

    @settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        methods, TARGETS, QUERIES, HEADERS, senders, st.sampled_from([b"", b"{}", b"secret=x&next=//["]) | st.binary(max_size=40)
    )
    def check(method: str, path: str, query: bytes, headers: dict[str, str], sender: dict[str, str], body: bytes) -> None:
        given = {"host": "127.0.0.1:8400", **headers, **sender}
        assert asyncio.run(ask(studio.app, method, path, query, given, body)) < 500

    check()
