"""A server that answers every request as it was told, for what a real store seldom does."""

import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class AnsweringServer(ThreadingHTTPServer):
    """Gives (status, content) one after the other, the last for ever; `num_requests` were made."""

    def __init__(self, answers: Sequence[tuple[int, bytes]], context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers, self.num_requests = answers, 0
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server_port}"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)


class Answer(BaseHTTPRequestHandler):
    server: AnsweringServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, content = self.server.answers[min(self.server.num_requests, len(self.server.answers) - 1)]
        self.server.num_requests += 1
        self.send_response(status)
        for name, value in {
            "ETag": '"1"',
            "Last-Modified": "Sat, 28 Nov 2026 00:00:00 GMT",
            "Content-Length": len(content),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing: the test knows."""


@contextmanager
def answering(*answers: tuple[int, bytes], context: ssl.SSLContext | None = None) -> Iterator[AnsweringServer]:
    with AnsweringServer(answers, context) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
