"""A test client whose requests each cross into the app's event loop once: Starlette's crosses eight times for each."""

import asyncio
from typing import Any
from urllib.parse import unquote

import httpx2
from starlette.testclient import TestClient
from starlette.types import Message


class Client(TestClient):
    """As TestClient; what is not read as a stream is asked and answered in one piece, background tasks included."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._transport = WholeTransport(self, self._transport)

    def send(self, request: httpx2.Request, *, stream: bool = False, **more: Any) -> httpx2.Response:
        request.extensions = {**request.extensions, "is_streamed": stream}
        return super().send(request, stream=stream, **more)


class WholeTransport(httpx2.BaseTransport):
    """Runs the app in the client's loop until it is done; streams go through `streaming`."""

    def __init__(self, client: TestClient, streaming: Any) -> None:
        self.client, self.streaming = client, streaming

    def close(self) -> None:
        self.streaming.close()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.extensions["is_streamed"] or not self.streaming.raise_server_exceptions:
            return self.streaming.handle_request(request)  # type: ignore[no-any-return]
        request.read()
        with self.client._portal_factory() as portal:
            return portal.call(self._answer, request)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        said: list[Message] = []
        asked, done = [{"type": "http.request", "body": request.read()}], asyncio.Event()

        async def receive() -> Message:
            if asked:
                return asked.pop()
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            said.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                done.set()

        await self.streaming.app(self._describe(request), receive, send)
        start, *bodies = said
        headers = [(key.decode(), value.decode()) for key, value in start["headers"]]
        body = b"" if request.method == "HEAD" else b"".join(message.get("body", b"") for message in bodies)
        return httpx2.Response(start["status"], headers=headers, stream=httpx2.ByteStream(body), request=request)

    def _describe(self, request: httpx2.Request) -> dict[str, Any]:
        url = request.url
        return {
            "type": "http", "http_version": "1.1", "method": request.method, "path": unquote(url.path),
            "raw_path": url.raw_path.split(b"?", 1)[0], "root_path": self.streaming.root_path, "scheme": url.scheme,
            "query_string": url.query, "client": self.streaming.client, "state": {}, "extensions": {},
            "headers": [(key.lower().encode(), value.encode()) for key, value in request.headers.multi_items()],
            "server": [url.raw_host.decode("ascii"), url.port or {"http": 80, "https": 443}[url.scheme]],
        }  # fmt: skip
