"""Who may come in, from where, and what every answer carries."""

import logging
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text, update
from starlette.testclient import TestClient

from app.main import create_app
from app.services import accounts
from app.store.database import now
from app.store.tables import Token
from tests.web.client import Client
from tests.web.conftest import PAIRS, URL, make_settings

OPEN = (
    "/login",
    "/login/{secret}",
    "/healthz",
    "/static",
    *(f"/vote/{path}" for path in ("{secret}", "booth/{link_id}", "booth/{link_id}/undo")),
)


def list_routes(app) -> list[tuple[str, str]]:
    """Every method and path of the app, mounts included."""
    routes = [
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in sorted(getattr(route, "methods", None) or {"GET"})
    ]
    assert len(routes) > 40
    return routes


def test_every_route_but_login_health_and_static_refuses_who_is_not_signed_in(studio):
    nobody = studio.client("")
    for method, path in list_routes(studio.app):
        if path in OPEN:
            continue
        response = nobody.request(method, re.sub(r"{[^}]*}", "some", path))
        is_login = response.status_code == 303 and response.headers["location"].startswith("/login?next=")
        assert response.status_code == 401 or is_login, f"{method} {path}: {response.status_code}"


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/models", "/readyz", "/metrics", "/openapi.json"])
def test_a_machine_without_a_token_is_told_how_to_sign_in(studio, path):
    response = studio.client("").get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert "bearer token" in response.json()["detail"]


@pytest.mark.parametrize("secret", ["", "wrong", "a b", "\u00e9"])
def test_a_wrong_token_is_refused(studio, secret):
    header = f"Bearer {secret}".encode("latin-1")
    assert studio.client("").get("/api/v1/runs", headers={"authorization": header}).status_code == 401


def test_the_health_check_is_open_and_looks_at_nothing(studio):
    assert studio.client("").get("/healthz").json() == {"status": "ok"}


def test_readiness_needs_a_sign_in(client):
    ready = client.get("/readyz").json()
    assert ready["status"] == "ok"
    assert {name: check["ok"] for name, check in ready["checks"].items()} == {
        "database": True, "tables": True, "data_folder": True, "broker": True,
    }  # fmt: skip


def test_a_token_that_may_read_may_not_write(studio):
    reader = studio.client(studio.make_token(scope="read"))
    assert reader.get("/api/v1/runs").status_code == 200
    for method, path in list_routes(studio.app):
        if method in {"POST", "DELETE", "PUT", "PATCH"} and path not in OPEN:
            response = reader.request(method, re.sub(r"{[^}]*}", "some", path))
            assert response.status_code == 403, f"{method} {path}: {response.status_code}"


@pytest.fixture
def private(studio, client) -> Iterator[dict[str, str]]:
    """A run, a data set and a model that the administrator keeps to himself."""
    things = {"runs": studio.launch(), "datasets": studio.upload(private="true")["id"], "models": "model_policy"}
    for noun, key in things.items():
        assert client.patch(f"/api/v1/{noun}/{key}", json={"private": True}).json()["private"]
    yield things
    client.patch("/api/v1/models/model_policy", json={"private": False})


def test_another_users_private_objects_are_not_there(studio, eve, private):
    run_id, dataset = private["runs"], {"id": private["datasets"]}
    for path in [
        f"/runs/{run_id}", f"/runs/{run_id}/events", f"/runs/{run_id}/stream", f"/runs/{run_id}/metrics",
        f"/runs/{run_id}/weights", f"/runs/{run_id}/samples", f"/runs/{run_id}/findings", f"/runs/{run_id}/log",
        f"/runs/{run_id}/artifacts",
        f"/runs/{run_id}/artifacts/recipe.json", f"/datasets/{dataset['id']}", f"/datasets/{dataset['id']}/examples",
        f"/datasets/{dataset['id']}/audit", f"/datasets/{dataset['id']}/file", f"/datasets/{dataset['id']}/preview",
        f"/datasets/{dataset['id']}/examples.jsonl", f"/datasets/{dataset['id']}/examples.csv", "/models/model_policy",
        "/models/model_policy/check",
    ]:  # fmt: skip
        assert eve.get(f"/api/v1{path}").status_code == 404, path
    for path in [f"/runs/{run_id}/cancel", f"/runs/{run_id}/resume", f"/runs/{run_id}/clone"]:
        assert eve.post(f"/api/v1{path}").status_code == 404, path
    mapping = {"shape": "pair", "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}}
    assert eve.post(f"/api/v1/datasets/{dataset['id']}/mapping", json=mapping).status_code == 404
    for path in [f"/runs/{run_id}", f"/datasets/{dataset['id']}", "/models/model_policy"]:
        assert eve.delete(f"/api/v1{path}").status_code == 404, path
    assert run_id not in {run["id"] for run in eve.get("/api/v1/runs").json()["items"]}
    assert eve.post("/api/v1/runs", json=studio.ingredients()).status_code == 422


def test_another_users_private_run_cannot_become_a_model(eve, private):
    body = {"kind": "policy", "source": "run", "run_id": private["runs"]}
    assert eve.post("/api/v1/models", json=body).status_code == 404


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example:8400", "127.0.0.1@evil.example", "", "[::2]", "[::1", "[", "]", "[]", "[::1]]",
        "127.0.0.1/x", "127.0.0.1:8400:1", "127.0.0.1:x", "127.0.0.1 ", "\x7f", "[127.0.0.1]", "//",
    ],
)  # fmt: skip
def test_a_foreign_host_name_is_refused(studio, host):
    for path in ("/healthz", "/", "/static/studio.css", "/api/v1/runs"):
        assert studio.client("").get(path, headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "localhost:1", "LOCALHOST", "[::1]:8400", "[::1]"])
def test_a_name_of_ours_is_answered(studio, host):
    assert studio.client("").get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8400", ""])
@pytest.mark.parametrize("path", ["/api/v1/runs", "/logout", "/nowhere"])
def test_a_browser_that_comes_from_elsewhere_may_not_change_anything(studio, origin, path):
    browser = studio.browser()
    del browser.headers["origin"]
    headers = {} if origin is None else {"origin": origin}
    assert browser.post(path, json={}, headers=headers).status_code == 403
    assert browser.get("/api/v1/runs").status_code == 200


def test_json_as_plain_text_is_refused_from_a_browser(studio):
    response = studio.browser().post("/api/v1/runs", content="{}", headers={"content-type": "text/plain"})
    assert response.status_code == 403
    form = studio.browser().post("/api/v1/models", data={"kind": "policy"})
    assert form.status_code == 403


def test_a_token_must_name_its_body_json(client):
    response = client.post("/api/v1/runs", content="{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


def test_a_bearer_token_needs_no_origin(studio, client):
    assert client.post("/api/v1/runs", json=studio.ingredients(), headers={"origin": "https://evil.example"}).status_code == 202


def test_a_bad_token_is_not_made_good_by_a_cookie(studio):
    browser = studio.browser()
    browser.headers["authorization"] = "Bearer wrong"
    assert browser.get("/api/v1/runs").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/login"), ("GET", "/nowhere"), ("GET", "/api/v1/nowhere"), ("GET", "/static/studio.css"),
        ("GET", "/static/nowhere"), ("GET", "/healthz"), ("PUT", "/healthz"), ("POST", "/api/v1/runs"), ("GET", "/login/wrong"),
    ],
)  # fmt: skip
def test_every_answer_carries_the_security_headers(studio, method, path):
    headers = studio.client("").request(method, path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_what_is_behind_the_sign_in_stays_in_no_cache(studio, client):
    for answer in (studio.browser().get("/"), client.get("/api/v1/runs"), client.get("/api/v1/nowhere")):
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("public_url", "is_told"), [("https://studio.example.org", True), ("http://studio.example.org", False)])
def test_browsers_are_told_to_come_by_https_alone_where_the_public_address_is(settings, public_url, is_told):
    app = create_app(settings.model_copy(update={"public_url": public_url}))
    headers = TestClient(app).get("/healthz", headers={"host": "studio.example.org"}).headers
    assert ("strict-transport-security" in headers) == is_told
    app.state.database.close()


def test_a_login_link_works_once(studio):
    secret = studio.login_secret()
    first = studio.client("").post(f"/login/{secret}")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    second = studio.client("").post(f"/login/{secret}")
    assert second.status_code == 401
    assert "login-link" in second.text
    assert "set-cookie" not in second.headers


def test_a_newer_login_link_ends_the_older_one(studio):
    older, newer = studio.login_secret(), studio.login_secret()
    assert studio.client("").post(f"/login/{older}").status_code == 401
    assert studio.client("").post(f"/login/{newer}").status_code == 303


def test_a_login_link_ends_after_a_day(studio):
    secret = studio.login_secret()
    with studio.database.writing() as session:
        moment = now(session)
        live = Token.kind == "login", Token.used_at.is_(None)
        lifetimes = [token.expires_at - moment for token in session.query(Token).where(*live)]
        session.execute(update(Token).where(*live).values(expires_at=moment - timedelta(seconds=1)))
    assert all(timedelta(hours=23) < lifetime <= timedelta(hours=24) for lifetime in lifetimes)
    assert studio.client("").post(f"/login/{secret}").status_code == 401


def test_opening_a_login_link_shows_a_button_and_spends_nothing(studio):
    secret = studio.login_secret()
    assert studio.client("").head(f"/login/{secret}").status_code == 405
    for _ in range(2):  # a preview, then the person
        page = studio.client("").get(f"/login/{secret}")
        assert page.status_code == 200
        assert "set-cookie" not in page.headers
        assert f'action="/login/{secret}"' in page.text
    assert studio.client("").post(f"/login/{secret}").status_code == 303


def test_a_login_link_leads_who_is_signed_in_to_the_studio(studio):
    browser, secret = studio.browser(), studio.login_secret()
    again = browser.get(f"/login/{secret}")
    assert (again.status_code, again.headers["location"]) == (303, "/")
    assert studio.client("").post(f"/login/{secret}").status_code == 303  # it wasn't spent


def test_what_a_login_link_says_is_no_markup(studio):
    assert "<script" not in studio.client("").get("/login/%22%3E%3Cscript%3Ealert(1)").text.split("</head>")[1]


def test_the_form_takes_the_secret_or_the_whole_link_and_goes_back(studio):
    for given in (studio.login_secret, lambda: f"  {URL}/login/{studio.login_secret()} "):
        response = studio.client("").post("/login", data={"secret": given(), "next": "/datasets"})
        assert (response.status_code, response.headers["location"]) == (303, "/datasets")


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "",
        "\r\nx: y",
        "//[",
        "/\n/x",
        "http://[",
    ],
)
def test_a_sign_in_never_leads_elsewhere(studio, target):
    response = studio.client("").post("/login", data={"secret": studio.login_secret(), "next": target})
    assert (response.status_code, response.headers["location"]) == (303, "/")


def test_a_foreign_page_cannot_sign_a_browser_in(studio):
    stranger = studio.client("", origin="https://evil.example")
    assert stranger.post("/login", data={"secret": studio.login_secret()}).status_code == 403
    assert stranger.post(f"/login/{studio.login_secret()}").status_code == 403


def test_the_session_cookie_is_for_the_server_only(studio):
    cookie = studio.client("").post(f"/login/{studio.login_secret()}").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie


def test_behind_https_the_session_cookie_stays_there(tmp_path):
    app = create_app(make_settings(tmp_path, public_url="https://studio.example"))
    with TestClient(app, base_url="https://studio.example", follow_redirects=False) as client:
        with app.state.database.writing() as session:
            secret = accounts.create_login_link(session, accounts.ensure_admin(session))
        assert "secure" in client.post(f"/login/{secret}").headers["set-cookie"].lower()
        client.headers["origin"] = "https://studio.example"
        assert client.post("/logout").status_code == 303


def test_signing_out_ends_the_session_on_the_server(studio):
    browser = studio.browser()
    cookie = browser.cookies["studio_session"]
    assert browser.post("/logout").headers["location"] == "/login"
    again = studio.client("", cookie=f"studio_session={cookie}")
    assert again.get("/api/v1/runs").status_code == 401


def test_an_ended_session_leads_to_the_login_page_and_back(studio):
    stale = studio.client("", cookie="studio_session=old")
    assert stale.get("/datasets").headers["location"] == "/login?next=/datasets"
    htmx = stale.get("/datasets", headers={"hx-request": "true"})
    assert (htmx.status_code, htmx.headers["hx-redirect"]) == (401, "/login?next=/datasets")


@pytest.mark.long
def test_endless_tries_are_stopped_and_nobody_else_notices(studio):
    attacker = Client(studio.app, base_url=URL, client=("10.0.0.66", 1), follow_redirects=False)
    attacker.portal = studio.portal
    statuses = [attacker.post("/login", data={"secret": f"guess-{n}"}).status_code for n in range(1000)]
    assert statuses[:10] == [401] * 10
    assert set(statuses[10:]) == {429}
    refused = attacker.post("/login/guess")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert studio.browser().get("/api/v1/runs").status_code == 200


def test_no_secret_is_kept(studio):
    secrets = [studio.token, studio.login_secret(), studio.make_token(), studio.browser().cookies["studio_session"]]
    with studio.database.reading() as session:
        rows = session.execute(text("SELECT * FROM tokens")).all()
    kept = repr(rows)
    assert len(rows) >= 4
    assert not [secret for secret in secrets if secret in kept]


def test_the_first_start_prints_one_login_link(tmp_path, capsys):
    for expected in (1, 0):
        with TestClient(create_app(make_settings(tmp_path)), base_url=URL):
            printed = capsys.readouterr().err
        assert printed.count("/login/") == expected


@pytest.mark.long
def test_reading_changes_nothing(studio, client):
    studio.upload()
    studio.launch()

    def dump() -> str:
        with studio.database.reading() as session:
            return repr(
                [
                    session.execute(text(f"SELECT * FROM {table}")).all()
                    for table in ("users", "tokens", "datasets", "models", "runs")
                ]
            )

    before = dump()
    for method, path in list_routes(studio.app):
        if method == "GET" and path not in OPEN and "stream" not in path and "live" not in path:
            client.get(re.sub(r"{[^}]*}", "some", path))
    assert dump() == before


def test_the_servers_log_keeps_login_secrets_to_itself(studio, caplog):
    access = logging.getLogger("uvicorn.access")
    with caplog.at_level(logging.INFO, "uvicorn.access"):
        access.propagate = True
        access.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", "/login/the-secret", "1.1", 303)
    assert "the-secret" not in caplog.text
    assert "/login/…" in caplog.text


@pytest.mark.box
def test_the_doors_are_the_same_on_postgresql(postgres_settings):
    app = create_app(postgres_settings)
    with TestClient(app, base_url=URL, follow_redirects=False) as client:
        with app.state.database.writing() as session:
            admin = accounts.ensure_admin(session)
            secret, token = accounts.create_login_link(session, admin), accounts.create_token(session, admin, "test")
        assert client.post(f"/login/{secret}").status_code == 303
        assert client.get("/api/v1/runs").status_code == 200
        client.cookies.clear()
        assert client.post(f"/login/{secret}").status_code == 401
        client.headers["authorization"] = f"Bearer {token}"
        dataset = client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)}).json()
        policy = client.post("/api/v1/models", json={"kind": "policy", "source": "hub", "name": "a/b"}).json()
        recipe = {"dataset": dataset["id"], "policy": {"model": policy["id"]}, "weights": {"lambda": 1}}
        run = client.post("/api/v1/runs", json=recipe, headers={"idempotency-key": "one"})
        assert client.post("/api/v1/runs", json=recipe, headers={"idempotency-key": "one"}).json() == run.json()
        assert client.delete(f"/api/v1/models/{policy['id']}").status_code == 409
        assert client.get(f"/api/v1/runs/{run.json()['id']}/events").json()["last_seq"] == 1
        assert client.get("/api/v1/runs/%00").status_code in {404, 422}
        bad = client.post("/api/v1/models", json={"kind": "policy", "source": "hub", "name": "a\0b"})
        assert bad.status_code == 422
        assert client.get("/api/v1/models?after=a%00b").status_code in {200, 422}
