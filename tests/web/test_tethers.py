"""Streams, downloads and uploads end with the session or token that opened them, whatever ended it."""

import socket
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from app.domain.events import ArtifactWritten
from app.services import accounts, users
from app.services.acts import STUDIO
from app.store import journal
from app.store.accounts import find_user, get_user
from app.store.database import Database, now
from app.store.tables import Run, Token
from app.web import tethers
from tests.waiting import wait_until

LARGE_BYTES = 200 * 2**20  # more than the buffers between the server and a reader hold


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tethers, "LOOK_SECONDS", 0.05)


@pytest.fixture
def ada(server) -> dict[str, str]:
    """The admin who owns the run, by a token and a browser; there is another admin, so that this one can be disabled."""
    with server.studio.database.writing() as session:
        user = get_user(session, "admin")
        users.enable(session, STUDIO, user.id)
        if find_user(session, "root") is None:
            accounts.create_user(session, "root", "admin")
        token = accounts.create_token(session, user, "stream")
        token_id = accounts.authenticate(session, token, "api")[1].id
        cookie = accounts.redeem_login(session, accounts.create_login_link(session, user))
        return {"user": user.id, "token": token, "token_id": token_id, "cookie": cookie}


def list_watched(server) -> list[tethers.Exchange]:
    """What the server looks after just now."""
    layer = server.studio.app.middleware_stack
    while not isinstance(layer, tethers.Tethers):
        layer = layer.app
    return [exchange for watch in layer._watches.values() for exchange in watch.exchanges]


def revoke(database: Database, ada: dict[str, str]) -> None:
    with database.writing() as session:
        accounts.revoke_token(session, STUDIO, ada["token_id"])


def expire(database: Database, ada: dict[str, str]) -> None:
    with database.writing() as session:
        past = now(session) - timedelta(seconds=1)
        session.execute(update(Token).where(Token.id == ada["token_id"]).values(expires_at=past))


def disable(database: Database, ada: dict[str, str]) -> None:
    with database.writing() as session:
        users.disable(session, STUDIO, ada["user"])


def sign_out(database: Database, ada: dict[str, str]) -> None:
    with database.writing() as session:
        users.sign_out_everywhere(session, STUDIO, ada["user"])


def headers_of(ada: dict[str, str], how: object) -> dict[str, str]:
    return {"cookie": f"studio_session={ada['cookie']}"} if how is sign_out else {"authorization": f"Bearer {ada['token']}"}


@pytest.mark.parametrize("how", [revoke, expire, disable, sign_out], ids=lambda how: how.__name__)
@pytest.mark.parametrize("path", ["/api/v1/runs/{run}/stream", "/runs/{run}/live"])
def test_a_stream_ends_with_what_it_was_opened_by(server, ada, path, how):
    run_id = server.studio.launch()
    url = server.url + path.format(run=run_id)
    with httpx.stream("GET", url, headers=headers_of(ada, how), timeout=20) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
        how(server.studio.database, ada)
        rest = list(lines)  # until the server closes it
    assert "event: end" not in rest  # the run goes on; who comes back is told to sign in
    again = httpx.get(url, headers=headers_of(ada, how), follow_redirects=False)
    assert again.status_code in {401, 303}


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("path", ["/api/v1/runs/{run}/stream", "/runs/{run}/live"])
def test_a_stream_says_that_its_run_has_been_made_private(server, path):
    run_id, member = server.studio.launch(), {"authorization": f"Bearer {server.studio.make_token('eve')}"}
    with httpx.stream("GET", server.url + path.format(run=run_id), headers=member, timeout=20) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
        owner = server.studio.client()
        owner.patch(f"/api/v1/runs/{run_id}", json={"private": True})
        owner.post(f"/api/v1/runs/{run_id}/cancel")  # by which the stream looks again at once
        rest = list(lines)
    end = rest.index("event: end")
    assert "has been made private while you watched" in rest[end + 1]
    assert "cancelled" not in "".join(rest)


def test_streams_of_others_go_on_and_nothing_stays_watched(server, ada):
    studio, run_id = server.studio, server.studio.launch()
    url = f"{server.url}/api/v1/runs/{run_id}/stream"
    others = {"authorization": f"Bearer {studio.token}"}
    with (
        httpx.stream("GET", url, headers=others, timeout=20) as other,
        httpx.stream("GET", url, headers=headers_of(ada, revoke), timeout=20) as own,
    ):
        lines = other.iter_lines()
        next(line for line in lines if line.startswith("id: "))
        revoke(studio.database, ada)
        assert "event: end" not in list(own.iter_lines())
        studio.client().post(f"/api/v1/runs/{run_id}/cancel")
        assert "event: end" in list(lines)
    wait_until(lambda: not list_watched(server), "the end of the watch")


def test_a_download_in_course_is_cut_short(server, ada):
    studio, run_id = server.studio, server.studio.launch()
    path = studio.app.state.files.artifacts_dir(run_id) / "model.bin"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    with studio.database.writing() as session:
        written = ArtifactWritten(name="model.bin", title="Model", size_bytes=LARGE_BYTES, sha256="0" * 64)
        journal.append(session, session.get(Run, run_id), [written])
    url = f"{server.url}/api/v1/runs/{run_id}/artifacts/model.bin"
    with httpx.stream("GET", url, headers=headers_of(ada, revoke), timeout=20) as response:
        assert int(response.headers["content-length"]) == LARGE_BYTES
        pieces = response.iter_bytes(2**16)
        next(pieces)
        assert list_watched(server)
        revoke(studio.database, ada)
        wait_until(lambda: not list_watched(server), "the cut")  # while its reader reads nothing
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass
    path.unlink()


def test_an_upload_in_course_is_refused(server, ada):
    head = (
        "POST /api/v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n"
        f"Authorization: Bearer {ada['token']}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="pairs.jsonl"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sender:
        sender.sendall(head.encode())
        sender.settimeout(0.05)
        wait_until(lambda: list_watched(server), "the begin of the upload")
        revoke(server.studio.database, ada)
        answer = b""

        def is_answered() -> bool:
            nonlocal answer
            try:
                sender.sendall(b'{"prompt": 1}\n')
                answer += sender.recv(4096)
            except OSError:  # nothing yet, or the server has closed it
                pass
            return b"has ended meanwhile" in answer

        wait_until(is_answered, "the refusal")
    assert answer.startswith(b"HTTP/1.1 401")
