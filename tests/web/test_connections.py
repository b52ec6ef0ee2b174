"""Senders who take their time, or leave: heads and bodies are waited for, but not forever."""

import re
import socket
import time
from contextlib import ExitStack, contextmanager

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.web import bodies, connections
from tests.waiting import END_SECONDS, wait_until

H11 = connections.h11_impl.h11.Connection
FORM = "application/x-www-form-urlencoded"
BOUNDARY = "frontier"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{{"prompt"'


@pytest.fixture
def impatient(monkeypatch):
    """A server that waits for a tenth of a second."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(bodies, "GRACE_SECONDS", 0.1)


@contextmanager
def connected(server, sent: str):
    with socket.create_connection(("127.0.0.1", server.port), timeout=END_SECONDS) as connection:
        connection.sendall(sent.encode())
        yield connection


def read_all(connection: socket.socket) -> str:
    """Return what the server says until it closes the connection."""
    told = b""
    try:
        while piece := connection.recv(65_536):
            told += piece
    except ConnectionResetError:
        pass
    return told.decode()


def head(method: str, path: str, server, **headers: str) -> str:
    given = {"host": f"127.0.0.1:{server.port}", "authorization": f"Bearer {server.studio.token}", **headers}
    return f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())


@pytest.mark.parametrize(("path", "kind", "status"), [("/api/v1/runs", "application/json", 422), ("/login", FORM, 413)])
def test_a_body_in_smallest_pieces_leaves_others_their_turn(server, monkeypatch, path, kind, status):
    looks, handle, look = [0], H11Protocol.handle_events, H11.next_event
    monkeypatch.setattr(H11, "next_event", lambda self: looks.append(looks.pop() + 1) or look(self))
    monkeypatch.setattr(H11Protocol, "handle_events", lambda self: looks.append(0) or handle(self))
    pieces = "".join(f"1\r\n{byte}\r\n" for byte in " " * 20_000 + "{}")
    with connected(server, head("POST", path, server, content_type=kind, transfer_encoding="chunked", connection="close")) as one:
        one.sendall(f"\r\n{pieces}0\r\n\r\n".encode())
        assert read_all(one).startswith(f"HTTP/1.1 {status} ")
    assert sum(looks) > 1000
    assert max(looks) <= 100


@pytest.mark.parametrize("sent", ["", "GET", "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-more"])
def test_a_head_that_does_not_end_ends_the_connection(server, impatient, sent):
    with connected(server, sent) as connection:
        assert read_all(connection) == ""


def test_hundreds_of_half_sent_heads_are_all_let_go(server, impatient):
    with ExitStack() as stack:
        held = [stack.enter_context(connected(server, "GET / HTTP/1.1\r\nhost: ")) for _ in range(300)]
        assert [read_all(one) for one in held] == [""] * 300


def test_a_head_in_drops_gains_nothing_by_them(server, impatient):
    with connected(server, "GET /healthz HTTP/1.1\r\n") as connection, pytest.raises(OSError):  # noqa: PT011  as it happens
        wait_until(lambda: connection.sendall(b"x: y\r\n"), what="the end of the connection")


def test_what_comes_after_an_answer_is_waited_for_no_longer(server, impatient):
    """The keep-alive of the server itself ends with the first byte that comes."""
    with connected(server, head("GET", "/healthz", server) + "\r\n" + "GET /healthz HT") as connection:
        assert read_all(connection).count("200 OK") == 1


def test_requests_on_one_connection_are_answered_as_they_come(server):
    with connected(
        server, (head("GET", "/healthz", server) + "\r\n") * 3 + head("GET", "/healthz", server, connection="close")
    ) as one:
        one.sendall(b"\r\n")
        assert read_all(one).count("200 OK") == 4


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/models"])
def test_half_a_body_is_told_that_it_was_too_slow(server, impatient, path):
    with connected(server, head("POST", path, server, content_type="application/json", content_length="100") + '\r\n{"a"') as one:
        told = read_all(one)
    assert "408 Request Timeout" in told
    assert "too slowly" in told


def test_half_an_upload_is_told_that_it_was_too_slow_and_leaves_nothing(server, impatient):
    media = f"multipart/form-data; boundary={BOUNDARY}"
    sent = head("POST", "/api/v1/datasets", server, content_type=media, content_length="100000") + f"\r\n{PART}"
    with connected(server, sent) as connection:
        assert "408 Request Timeout" in read_all(connection)
    assert list(server.studio.app.state.files.uploads_dir.glob("*")) == []


def test_an_answer_that_takes_longer_than_a_head_is_given(server, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.5)
    run_id = server.studio.launch()
    with connected(server, head("GET", f"/api/v1/runs/{run_id}/stream", server, connection="close") + "\r\n") as connection:
        assert "200 OK" in connection.recv(65_536).decode()
        time.sleep(3.0)  # the clock: twice the time of a head
        assert server.studio.client().post(f"/api/v1/runs/{run_id}/cancel").status_code == 202
        assert "event: end" in read_all(connection)


@pytest.mark.parametrize("path", ["/api/v1/datasets", "/api/v1/runs", "/datasets/new", "/runs/new", "/logout"])
def test_a_strangers_body_is_refused_before_it_has_come(server, path):
    media = {"/api/v1/runs": "application/json"}.get(path, f"multipart/form-data; boundary={BOUNDARY}")
    sent = head("POST", path, server, authorization="", content_type=media, transfer_encoding="chunked")
    with connected(server, f"{sent}\r\n5\r\nhello\r\n") as connection:
        status = connection.recv(65_536).decode().split()[1]
    assert status in ("401", "303", "415")


def test_an_upload_whose_sender_leaves_is_no_fault_of_the_studio(server):
    media = f"multipart/form-data; boundary={BOUNDARY}"
    uploads = server.studio.app.state.files.uploads_dir
    with connected(server, head("POST", "/api/v1/datasets", server, content_type=media, content_length="100000") + f"\r\n{PART}"):
        wait_until(lambda: list(uploads.glob("*")), what="the upload's beginning")
    wait_until(lambda: not list(uploads.glob("*")), what="the upload's end")

    def counted() -> dict[str, str]:
        text = server.studio.client().get("/metrics").text
        return dict(
            re.findall(r'studio_http_requests_total\{method="POST",route="/api/v1/datasets",status="(\d+)"\} (\S+)', text)
        )

    wait_until(lambda: "499" in counted(), what="the count of who left")
    assert "500" not in counted()
