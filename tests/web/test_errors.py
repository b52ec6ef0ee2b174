"""Every error under /api is one shape, and tells nothing that isn't the user's business."""

import logging

import pytest
from starlette.testclient import TestClient

from app.main import create_app
from tests.warm import forking
from tests.web.conftest import URL, make_app, make_settings


def check_problem(response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"urn:varstudio:{code}"
    assert (problem["status"], problem["code"], problem["instance"]) == (status, code, response.request.url.path)
    assert problem["title"]
    assert problem["detail"].endswith((".", "!", ")"))
    return problem


def test_an_unknown_path_is_a_problem(client):
    check_problem(client.get("/api/v1/nowhere"), 404, "not-found")


def test_an_unknown_object_is_a_problem(client):
    check_problem(client.get("/api/v1/runs/run_none"), 404, "not-found")


def test_a_wrong_method_is_a_problem_that_names_one_that_is_right(client):
    response = client.put("/api/v1/runs", json={})
    check_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] in {"GET", "POST"}


def test_a_missing_sign_in_is_a_problem(studio):
    check_problem(studio.client("").get("/api/v1/runs"), 401, "unauthenticated")


def test_each_wrong_field_is_named_as_the_body_spells_it(client, studio):
    recipe = {**studio.ingredients(), "weights": {"lambda": -1}, "training": {"batch_size": 0, "micro_batch": 1}}
    problem = check_problem(client.post("/api/v1/runs", json=recipe), 422, "invalid-input")
    assert {one["field"] for one in problem["problems"]} == {"weights.lambda", "training.batch_size", "training.micro_batch"}


def test_a_wrong_query_parameter_is_named(client):
    problem = check_problem(client.get("/api/v1/runs?limit=0"), 422, "invalid-input")
    assert problem["problems"][0]["field"] == "limit"


@pytest.mark.parametrize(
    "body", [b"{", b"[1, 2", b"\xff\xfe", b'{"a": ' + b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}", b"", b"[]", b"null"]
)
def test_a_body_that_is_no_recipe_is_refused(client, body):
    response = client.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    check_problem(response, 422, "invalid-input")
    assert len(response.content) < 2000


LONG = b"9" * 5000


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"training": {"seed": -%s}}', ["training.seed"]),
        (b'{"name": "a", "max_examples": %s, "weights": {"lambda": 1, "plans": %s}}' , ["max_examples", "weights.plans"]),
        (b'{"tags": [1, [%s]]}', ["tags.1.0"]),
        (b"[" * 900 + b"%s" + b"]" * 900, [".".join(["0"] * 900)]),
        (b"%s", [""]),
    ],
)  # fmt: skip
def test_a_number_of_thousands_of_digits_is_refused_at_its_field(client, body, fields):
    response = client.post("/api/v1/runs", content=body.replace(b"%s", LONG), headers={"content-type": "application/json"})
    problem = check_problem(response, 422, "invalid-input")
    assert [(one["field"], one["message"]) for one in problem["problems"]] == [
        (field, "Must be a smaller number: it has more than 4,300 digits.") for field in fields
    ]
    assert "must be a smaller number" in problem["detail"].lower()


@pytest.mark.parametrize(
    ("body", "sentence"), [(b'{"name": "\xe4"}', "no UTF-8 text"), (b"[" * 100_000, "too deep in each other")]
)
def test_json_that_can_not_be_read_says_why(client, body, sentence):
    response = client.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    assert sentence in check_problem(response, 422, "invalid-input")["detail"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("weights.lambda", -1), ("weights.lambda", 0), ("weights.lambda", 1e308), ("weights.lambda", float("nan")),
        ("weights.lambda", float("inf")), ("weights.lambda", "a"), ("weights.preset", "best"), ("training.seed", 2**63),
        ("training.batch_size", -1), ("training.batch_size", 2**63), ("training.learning_rate", float("nan")),
        ("name", "n" * 1_000_000), ("name", "\ud800"), ("evaluation.temperature", -1e308), ("max_examples", 1),
    ],
)  # fmt: skip
def test_an_absurd_setting_is_refused_at_its_field(client, studio, path, value):
    import json

    recipe = studio.ingredients()
    *parents, last = path.split(".")
    place = recipe
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    response = client.post("/api/v1/runs", content=json.dumps(recipe), headers={"content-type": "application/json"})
    problem = check_problem(response, 422, response.json()["code"])
    assert path in {one["field"] for one in problem["problems"]}


def test_a_body_over_the_limit_is_refused_announced_or_not(client):
    big = b'{"name": "' + b"x" * 5_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    check_problem(client.post("/api/v1/models", content=big, headers=headers), 413, "too-large")
    unannounced = client.post("/api/v1/models", content=iter([big[:100], big[100:]]), headers=headers)
    check_problem(unannounced, 413, "too-large")


def test_a_page_that_is_not_there_is_a_page(client):
    response = client.get("/nowhere")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/api/v1/broken", "/broken"])
def test_an_unexpected_error_is_logged_and_tells_nothing(tmp_path, migrated_sqlite, caplog, path):
    app = make_app(tmp_path, migrated_sqlite)

    def fail() -> None:
        raise RuntimeError("hunter2 is the password")

    app.add_api_route(path, fail)
    with forking(), TestClient(app, base_url=URL) as client, caplog.at_level(logging.ERROR):
        response = client.get(path)
    assert response.status_code == 500
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text
    assert "content-security-policy" in response.headers
    assert "hunter2" in caplog.text


def test_a_database_that_is_locked_is_a_503_with_a_time_to_wait(tmp_path, monkeypatch):
    import sqlite3

    import app.store.database as database

    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)  # the clock of the wait
    settings = make_settings(tmp_path)
    application = create_app(settings)
    with TestClient(application, base_url=URL) as client:
        from app.services import accounts

        with application.state.database.writing() as session:
            secret = accounts.create_token(session, accounts.ensure_admin(session), "test")
        application.state.database.engine.dispose()
        blocker = sqlite3.connect(settings.root / "studio.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        headers = {"authorization": f"Bearer {secret}"}
        body = {"kind": "policy", "source": "hub", "name": "small/policy"}
        response = client.post("/api/v1/models", json=body, headers=headers)
        check_problem(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) > 0
        assert client.get("/api/v1/models", headers=headers).status_code == 200
        blocker.execute("ROLLBACK")
        assert client.post("/api/v1/models", json=body, headers=headers).status_code == 201
