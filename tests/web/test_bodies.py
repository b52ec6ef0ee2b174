"""Bodies: what a path takes is decided by the path, whatever a sender declares."""

import asyncio
import json

import pytest

from app.web import bodies
from app.web.bodies import rule_of

MULTIPART = "multipart/form-data; boundary=x"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def count_taken(studio, path: str, media: str, start: bytes = b"", **headers: str) -> tuple[int, int]:
    """Return the status for a body of undeclared length that never ends, and how many bytes of it were taken."""
    given = {"host": "127.0.0.1:8400", "content-type": media, "transfer-encoding": "chunked", **headers}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": raw, "scheme": "http", "state": {}}
    taken, answers = [start], []

    async def receive():
        assert sum(map(len, taken)) < 2**25, "the studio reads on and on"
        taken.append(b"x" * 2**16)
        return {"type": "http.request", "body": taken[-1] if len(taken) > 2 else start, "more_body": True}

    async def send(message):
        answers.append(message)

    asyncio.run(studio.app(scope, receive, send))
    return answers[0]["status"], sum(map(len, taken))


@pytest.mark.parametrize("media", [MULTIPART, JSON, FORM, "application/octet-stream"])
@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/datasets/data_x/mapping", "/runs/new", "/login", "/login/secret"])
def test_no_declared_kind_lifts_a_paths_limit(studio, path, media):
    bearer = {} if path.startswith("/login") else {"authorization": f"Bearer {studio.token}"}
    status, num_taken = count_taken(studio, path, media, **bearer)
    assert status in (401, 413, 415)
    assert num_taken <= rule_of(path, studio.settings).max_bytes + 2**17


@pytest.mark.parametrize("path", ["/api/v1/datasets", "/datasets/new"])
def test_an_upload_ends_at_its_limit_though_its_length_was_not_declared(studio, path):
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    status, num_taken = count_taken(studio, path, MULTIPART, start, authorization=f"Bearer {studio.token}")
    assert status == 413
    assert num_taken <= studio.settings.max_upload_bytes + 2**18


@pytest.mark.parametrize("media", [MULTIPART, JSON, FORM])
@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/datasets", "/datasets/new", "/runs/new"])
def test_nothing_of_a_strangers_body_is_taken(studio, monkeypatch, path, media):
    def refuse(*_: object) -> None:
        raise AssertionError("a stranger's body was taken")

    monkeypatch.setattr(bodies, "PacedBody", refuse)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "studio_session=old", "origin": "http://127.0.0.1:8400"}):
        answer = studio.client("", **headers).post(path, content=b"{}", headers={"content-type": media})
        assert answer.status_code in (303, 401, 403, 415)


def test_a_token_that_may_only_read_sends_no_body(studio, monkeypatch):
    monkeypatch.setattr(bodies, "PacedBody", lambda *_: pytest.fail("the body was taken"))
    reader = studio.client(studio.make_token(scope="read"))
    assert reader.post("/api/v1/datasets", files={"file": ("a.jsonl", b"{}")}).status_code == 403


@pytest.mark.parametrize("path", ["/login", "/runs/new", "/datasets/data_x/mapping"])
def test_forms_are_not_sent_in_parts(studio, path):
    """Parts would be written to the temporary folder as they come."""
    answer = studio.browser().post(path, files={"secret": ("secret", b"x" * 100)})
    assert answer.status_code == 415
    assert FORM in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/sweeps", json.dumps({"recipe": {}, "lambda": [{}] * 20_000})),
        ("/api/v1/runs", json.dumps({f"k{n}": n for n in range(20_000)})),
        ("/runs/new", "&".join(f"k{n}=" for n in range(20_000))),
    ],
)
def test_a_body_of_too_many_values_is_refused_unread(client, path, body):
    media = JSON if path.startswith("/api/") else FORM
    answer = client.post(path, content=body, headers={"content-type": media})
    assert answer.status_code == 413
    assert "2,000 values" in answer.text


def test_a_get_with_a_body_is_answered_as_one_without(client):
    assert client.request("GET", "/api/v1/runs", content=b"x" * 100).status_code == 200
