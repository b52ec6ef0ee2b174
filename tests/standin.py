"""A server that speaks like an OpenAI-compatible one, and misbehaves as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asked = dict[str, Any]


@dataclass(frozen=True)
class Wrong:
    """An answer that is not a completion: sent as it is."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dropped:
    """The connection is closed: at once, or after some of a body was sent."""

    first: bytes = b""


@dataclass(frozen=True)
class Held:
    """Nothing is said until the event is set or the client has gone."""

    until: threading.Event


Behaviour = str | Wrong | Dropped | Held


@dataclass
class StandIn:
    """What was asked of it, with the headers, and how it answers."""

    respond: Callable[[int, Asked], Behaviour] = lambda number, asked: f"Answer {number}."
    asked: list[Asked] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def complete(text: str, finish: str = "stop", num_tokens: int = 5) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": num_tokens}}).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Listener"

    def do_POST(self) -> None:
        stand_in = self.server.stand_in
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with stand_in.lock:
            stand_in.asked.append(asked | {"path": self.path})
            stand_in.headers.append({name.lower(): value for name, value in self.headers.items()})
            number = len(stand_in.asked)
            stand_in.at_once += 1
            stand_in.most_at_once = max(stand_in.most_at_once, stand_in.at_once)
        stand_in.arrived.release()
        behaviour = stand_in.respond(number, asked)
        with stand_in.lock:
            stand_in.at_once -= 1
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        if isinstance(behaviour, Held):
            behaviour.until.wait(30)
            self.close_connection = True
        elif isinstance(behaviour, Dropped):
            if behaviour.first:
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + behaviour.first)
            self.close_connection = True
        else:
            wrong = behaviour if isinstance(behaviour, Wrong) else Wrong(body=complete(behaviour))
            self.send_response(wrong.status)
            for name, value in (*wrong.headers, ("content-length", str(len(wrong.body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(wrong.body)

    def log_message(self, *args: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stand_in = stand_in
        stand_in.port = self.server_port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error here."""


@contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    listener = Listener(stand_in)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stand_in
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
