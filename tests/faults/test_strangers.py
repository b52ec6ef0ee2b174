"""What strangers, slow senders and busy users may take of a real web process: memory, disk, processor time, connections."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import psutil
import pytest

from app.services import accounts
from app.store.database import Database
from app.web.connections import HEAD_SECONDS
from tests import warm
from tests.faults.web_process import MIB, Web, running_web
from tests.timing import Clock
from tests.waiting import END_SECONDS, wait_until

MULTIPART, JSON, FORM = "multipart/form-data; boundary=x", "application/json", "application/x-www-form-urlencoded"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
POURED = 64 * MIB
LARGEST = {JSON: 2 * MIB, FORM: MIB // 4}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with running_web(tmp_path_factory.mktemp("web"), popen=warm.Popen) as web:
        yield web


def pour(web: Web, path: str, media: str, *headers: str) -> tuple[int, int]:
    """Send a body of no declared length for as long as it is taken; the status, and how many bytes have gone."""
    given = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{web.settings.port}", f"Content-Type: {media}", *headers]
    num_sent, piece = 0, b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", web.settings.port), timeout=END_SECONDS) as connection:
        connection.sendall("\r\n".join([*given, "Transfer-Encoding: chunked", "", ""]).encode())
        connection.sendall(f"{len(PART):x}\r\n".encode() + PART + b"\r\n")
        try:
            while num_sent < POURED:
                connection.sendall(piece)
                num_sent += 0x10000
            connection.sendall(b"0\r\n\r\n")
        except OSError:  # it is not taken any more
            return 0, num_sent
        return int(connection.recv(4096).split()[1]), num_sent


@pytest.mark.parametrize("media", [MULTIPART, JSON, FORM])
@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/datasets", "/datasets/new", "/runs/new", "/login"])
def test_a_strangers_body_fills_neither_memory_nor_disk(web: Web, path: str, media: str) -> None:
    written = psutil.Process(web.pid).io_counters().write_chars
    with web.watched() as watch:
        before = psutil.Process(web.pid).memory_info().rss / MIB
        status, _ = pour(web, path, media)
    assert status in (0, 303, 401, 413, 415)
    assert watch.web_mib - before < 16
    assert psutil.Process(web.pid).io_counters().write_chars - written < MIB


@pytest.mark.parametrize(("path", "media"), [("/api/v1/runs", JSON), ("/runs/new", FORM), ("/runs/new", MULTIPART)])
def test_the_body_of_one_who_is_signed_in_ends_at_its_paths_limit(web: Web, path: str, media: str) -> None:
    written = psutil.Process(web.pid).io_counters().write_chars
    with web.watched() as watch:
        before = psutil.Process(web.pid).memory_info().rss / MIB
        status, _ = pour(web, path, media, f"Authorization: {web.http.headers['authorization']}")
    assert status in (0, 413, 415)
    assert watch.web_mib - before < 32
    assert psutil.Process(web.pid).io_counters().write_chars - written < MIB


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/sweeps", {"recipe": {}, "lambda": [{}] * 600_000}),
        ("/api/v1/sweeps", {"recipe": {f"k{n}": n for n in range(1900)}, "lambda": [0.1 + n for n in range(40)]}),
        ("/api/v1/sweeps", {"recipe": {}, "fields": {"a." * 90 + "a": [1]}}),
        ("/api/v1/runs", {f"k{n}": n for n in range(100_000)}),
        ("/api/v1/runs", {f"k{n}": n for n in range(1900)}),
        ("/api/v1/datasets/data_x/mapping", {"shape": "pair", "columns": {f"c{n}": {} for n in range(1900)}}),
    ],
)
def test_a_body_of_many_values_costs_little_and_is_answered_briefly(web: Web, clock: Clock, path: str, body: Any) -> None:
    content = json.dumps(body, separators=(",", ":")).encode()
    assert len(content) < LARGEST[JSON]
    times = psutil.Process(web.pid).cpu_times()
    answer = web.http.post(path, content=content, headers={"content-type": JSON})
    after = psutil.Process(web.pid).cpu_times()
    assert answer.status_code in (413, 422), answer.text[:500]
    assert len(answer.content) < 64 * 1024
    clock.check(after.user + after.system - times.user - times.system, 0.25)


def make_token(web: Web, name: str) -> str:
    database = Database(web.settings)
    with database.writing() as session:
        token = accounts.create_token(session, accounts.create_user(session, name), "test")
    database.close()
    return token


def test_one_users_uploads_do_not_keep_another_waiting(web: Web) -> None:
    """Twenty files of one user are sent at once; when another's small one is ready, most of them are not."""
    row = json.dumps({"prompt": "Question?", "chosen": "Yes.", "rejected": "No."}) + "\n"
    eve, begun = make_token(web, "eve"), threading.Event()

    def send(token: str, num_rows: int) -> str:
        headers = {"authorization": f"Bearer {token}"}
        files = {"file": ("a.jsonl", row * num_rows)}
        begun.set()
        answer = httpx.post(f"{web.url}/api/v1/datasets", headers=headers, files=files, timeout=END_SECONDS, verify=False)
        return str(answer.json()["state"])

    mine = web.http.headers["authorization"].removeprefix("Bearer ")
    with ThreadPoolExecutor(20) as threads:
        sent: list[Future[str]] = [threads.submit(send, mine, 5000) for _ in range(20)]
        assert begun.wait(END_SECONDS)
        wait_until(lambda: any(one["state"] == "processing" for one in list_datasets(web)), "the reading of the first")
        assert send(eve, 1) == "ready"
        num_left = sum(not one.done() for one in sent)
        assert [one.result(END_SECONDS) for one in sent] == ["ready"] * 20
    assert num_left >= 12
    web.forget()


def list_datasets(web: Web) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = web.http.get("/api/v1/datasets?limit=200").json()["items"]
    return items


@pytest.mark.soak
def test_three_thousand_half_sent_requests_are_let_go(web: Web) -> None:
    """Held open by their senders, who never say more."""
    num_before = psutil.Process(web.pid).num_fds()
    with ExitStack() as stack:
        for _ in range(3000):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", web.settings.port)))
            held.sendall(b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        assert web.http.get("/healthz").status_code == 200
        wait_until(lambda: psutil.Process(web.pid).num_fds() < num_before + 50, "their end", seconds=HEAD_SECONDS * 6)
