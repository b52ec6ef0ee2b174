"""Endpoints over REST, on pages and in the terminal: who may do what, what is refused, and that a key is seen nowhere."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standin import StandIn, Wrong, running
from tests.web.conftest import Studio, make_app, opened

API = "/api/v1"
KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    app = make_app(folder, migrated_sqlite, endpoint_allowed_hosts=["127.0.0.1", "gpu-box"])
    with opened(app, folder) as studio:
        yield studio


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandIn]:
    with running(StandIn()) as stand_in:
        yield stand_in


@pytest.fixture
def body(stand_in: StandIn, request: pytest.FixtureRequest) -> dict[str, object]:
    return {"name": request.node.name[:100], "address": stand_in.address, "model": "small", "key": KEY}


def test_an_admin_adds_changes_tries_and_removes_an_endpoint(client, body, stand_in):
    added = client.post(f"{API}/endpoints", json={**body, "address": f"{stand_in.address}/chat/completions/"})
    assert added.status_code == 201, added.text
    endpoint = added.json()
    where = f"{API}/endpoints/{endpoint['id']}"
    assert added.headers["location"] == where
    assert (endpoint["address"], endpoint["has_key"], endpoint["at_once"]) == (stand_in.address, True, 4)
    assert client.get(where).json() == endpoint
    assert endpoint in client.get(f"{API}/endpoints").json()["items"]
    trial = client.post(f"{where}/test").json()
    assert trial["ok"]
    assert re.fullmatch(r"small answered in \d+\.\d s: “Answer \d+\.”", trial["sentence"])
    assert stand_in.headers[-1]["authorization"] == f"Bearer {KEY}"
    changed = client.patch(where, json={"model": "large", "tokens_per_minute": 1000}).json()
    assert (changed["model"], changed["tokens_per_minute"], changed["has_key"]) == ("large", 1000, True)
    assert client.patch(where, json={"tokens_per_minute": None, "key": ""}).json()["has_key"] is False
    assert client.post(f"{where}/test").json()["ok"]
    assert "authorization" not in stand_in.headers[-1]
    assert client.delete(where).status_code == 204
    assert client.get(where).status_code == 404


def test_a_member_sees_endpoints_and_changes_none(client, eve, body, studio):
    endpoint = client.post(f"{API}/endpoints", json=body).json()
    where = f"{API}/endpoints/{endpoint['id']}"
    assert eve.get(where).json() == endpoint
    refused = [
        eve.post(f"{API}/endpoints", json={**body, "name": "mine"}), eve.patch(where, json={"model": "x"}), eve.delete(where),
        eve.post(f"{where}/test"), eve.get(f"/endpoints/{endpoint['id']}"),
    ]  # fmt: skip
    assert [response.status_code for response in refused] == [403] * 5
    page = eve.get("/endpoints").text
    assert endpoint["name"] in page
    assert '<form method="post" action="/endpoints"' not in page


REFUSED = [
    ({"address": "ftp://example.org"}, "address", "no address of the web"),
    ({"address": "https://me:secret@example.org/v1"}, "address", "user's name or password"),
    ({"address": "https://example.org/v1?key=1"}, "address", "must end with its path"),
    ({"address": "http://169.254.169.254/v1"}, "address", "link-local"),
    ({"address": "http://10.0.0.1/v1"}, "address", "STUDIO_ENDPOINT_ALLOWED_HOSTS"),
    ({"address": "http://[::1]:8000/v1"}, "address", "loopback"),
    ({"address": "https://example.org:99999/v1"}, "address", "no address"),
    ({"key": f"{KEY}\r\nx-evil: 1"}, "key", "can't be sent"),
    ({"key": [KEY]}, "key", "can't be sent"),
    ({"key": KEY * 1000}, "key", "can't be sent"),
    ({"at_once": 0}, "at_once", "at least 1"),
    ({"name": ""}, "name", "empty"),
]


@pytest.mark.parametrize(("changes", "field", "told"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_what_can_not_be_is_a_sentence_at_its_field_that_repeats_no_key(client, body, changes, field, told):
    response = client.post(f"{API}/endpoints", json={**body, **changes})
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["problems"]] == [field]
    assert told in response.json()["problems"][0]["message"]
    assert KEY not in response.text


def test_a_name_is_given_once(client, body):
    assert client.post(f"{API}/endpoints", json=body).status_code == 201
    assert client.post(f"{API}/endpoints", json=body).status_code == 409


def test_a_key_does_not_move_to_another_host(client, body, stand_in):
    where = f"{API}/endpoints/{client.post(f'{API}/endpoints', json=body).json()['id']}"
    elsewhere = {"address": "http://gpu-box:8000/v1"}
    refused = client.patch(where, json=elsewhere)
    assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "key")
    assert client.patch(where, json={"address": f"{stand_in.address}/v2"}).json()["has_key"]
    assert client.patch(where, json={**elsewhere, "key": ""}).json()["has_key"] is False
    assert client.patch(where, json={**elsewhere, "key": "sk-another-0123456"}).json()["has_key"]


def test_a_server_that_does_not_answer_is_told_as_a_sentence(client, body, stand_in):
    where = f"{API}/endpoints/{client.post(f'{API}/endpoints', json=body).json()['id']}"
    usual = stand_in.respond
    try:
        stand_in.respond = lambda number, asked: Wrong(302, headers=(("location", "http://169.254.169.254/"),))
        trial = client.post(f"{where}/test").json()
        stand_in.respond = lambda number, asked: Wrong(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode())
        refused = client.post(f"{where}/test").json()
    finally:
        stand_in.respond = usual
    assert (trial["ok"], refused["ok"]) == (False, False)
    assert "which is not followed" in trial["sentence"]
    assert "refuses the key" in refused["sentence"]


def test_the_pages_add_change_try_and_remove(studio, body, stand_in):
    browser = studio.browser()
    wrong = browser.post("/endpoints", data={**body, "address": "nowhere"})
    assert wrong.status_code == 422
    assert "no address of the web" in wrong.text
    assert KEY not in wrong.text
    place = browser.post("/endpoints", data={**body, "at_once": "4"}).headers["location"]
    page = browser.get(place).text
    assert stand_in.address in page
    assert "One is kept" in page
    trial = browser.post(f"{place}/test", headers={"hx-request": "true"})
    assert "small answered" in trial.text
    assert browser.post(place, data={**body, "key": "", "model": "large", "at_once": "2"}).status_code == 303
    assert "large at" in browser.get(place).text
    assert stand_in.asked[-1]["model"] == "small"
    moved = browser.post(place, data={**body, "key": "", "address": "http://gpu-box/v1", "at_once": "2"})
    assert "give it again" in moved.text
    assert browser.post(f"{place}/delete").status_code == 303
    assert browser.get(place).status_code == 404


def test_a_key_stands_nowhere_but_sealed_in_its_column(studio, client, body, caplog):
    caplog.set_level("DEBUG")
    endpoint = client.post(f"{API}/endpoints", json=body).json()
    client.post(f"{API}/endpoints/{endpoint['id']}/test")
    for path in Path(studio.settings.root).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    rows = sqlite3.connect(studio.settings.root / "studio.db").execute("SELECT sealed_key FROM endpoints").fetchall()
    assert any(str(row[0]).startswith("v1:") for row in rows)
    assert KEY not in caplog.text
    for address in (f"{API}/endpoints", f"{API}/acts", "/endpoints", f"/endpoints/{endpoint['id']}", "/acts"):
        assert KEY not in client.get(address).text
