"""The pages of accounts: one's own for everybody, those of others and their buttons for admins only."""

import re

import pytest

from app.services import accounts
from app.store.accounts import get_user
from app.system.identifiers import new_id
from tests.web.conftest import URL


def sign_in(studio, name: str):
    browser = studio.client("", origin=URL)
    assert browser.post(f"/login/{studio.login_secret(name)}").status_code == 303
    return browser


@pytest.fixture
def ann(studio) -> dict[str, str]:
    with studio.database.writing() as session:
        user = accounts.create_user(session, new_id("ann").replace("_", "-"))
        secret = accounts.create_token(session, user, "laptop")
        token = accounts.authenticate(session, secret, "api")[1]
        return {"id": user.id, "name": user.name, "token": token.id, "secret": secret}


FOR_ADMINS = [
    ("GET", "/users", 403), ("POST", "/users", 403), ("GET", "/users/{id}", 403), ("POST", "/users/{id}/login-link", 403),
    ("POST", "/users/{id}/disable", 403), ("POST", "/users/{id}/enable", 403), ("POST", "/users/{id}/remove", 403),
    ("POST", "/users/{id}/role", 403), ("POST", "/users/{id}/sign-out", 403), ("POST", "/tokens/{token}/revoke", 404),
    ("POST", "/tokens/{token}/change", 404),
]  # fmt: skip


def test_a_member_opens_and_presses_nothing_of_others(studio, ann):
    eve = sign_in(studio, "eve")
    for method, path, status in FOR_ADMINS:
        response = eve.request(
            method, path.format(**ann), data={"role": "admin", "name": "mallory"} if method == "POST" else None
        )
        assert response.status_code == status, f"{method} {path}: {response.status_code}"
        assert ann["name"] not in response.text
    assert studio.client(ann["secret"]).get("/api/v1/account").json()["role"] == "member"
    assert 'href="/users"' not in eve.get("/account").text
    assert ann["name"] not in eve.get("/acts").text


def test_a_member_looks_after_the_own_account(studio, ann):
    browser = sign_in(studio, ann["name"])
    assert "laptop" in browser.get("/account").text
    assert "without expiry" in browser.get("/account").text
    made = browser.post("/account/tokens", data={"name": "wall", "scope": "read", "days": "30"})
    assert made.headers["cache-control"] == "no-store"
    secret = re.search(r'id="secret">([^<]+)<', made.text)[1]
    assert studio.client(secret).get("/api/v1/account").json()["scope"] == "read"
    assert secret not in browser.get("/account").text
    assert browser.post("/account/tokens", data={"scope": "all", "days": "1"}).status_code == 422
    changed = browser.post(f"/tokens/{ann['token']}/change", data={"name": "<b>old</b>", "days": "7"})
    assert (changed.status_code, changed.headers["location"]) == (303, "/account")
    assert "&lt;b&gt;old&lt;/b&gt;" in browser.get("/account").text
    assert browser.post(f"/tokens/{ann['token']}/revoke").headers["location"] == "/account"
    assert studio.client(ann["secret"]).get("/api/v1/account").status_code == 401
    assert "Token revoked" in browser.get("/acts").text
    assert browser.post("/account/sign-out", data={"tokens": "true"}).headers["location"] == "/login"
    assert studio.client(secret).get("/api/v1/account").status_code == 401


def test_an_admin_presses_every_button(studio, ann):
    admin = sign_in(studio, "admin")
    place = f"/users/{ann['id']}"
    assert ann["name"] in admin.get("/users").text
    for verb, fields, state in (
        ("role", {"role": "admin"}, "active"), ("role", {"role": "member"}, "active"), ("disable", {}, "disabled"),
        ("enable", {}, "active"), ("sign-out", {"tokens": "true"}, "active"),
    ):  # fmt: skip
        response = admin.post(f"{place}/{verb}", data=fields)
        assert (response.status_code, response.headers["location"]) == (303, place)
        assert f">{state}</span>" in admin.get(place).text
    assert studio.client(ann["secret"]).get("/api/v1/account").status_code == 401
    linked = admin.post(f"{place}/login-link")
    assert linked.headers["cache-control"] == "no-store"
    link = re.search(r'id="link">([^<]+)<', linked.text)[1]
    assert studio.client("").post(link.removeprefix(URL)).status_code == 303
    assert admin.post(f"{place}/murder").status_code == 422
    assert admin.post(f"{place}/remove").headers["location"] == "/users"
    assert f"{ann['name']} (removed)" in admin.get("/users").text
    assert admin.post(f"{place}/enable").status_code == 409
    assert admin.post(f"{place}/login-link").status_code == 409
    assert "User removed" in admin.get("/acts?kind=user_removed").text
    assert admin.get("/users/user_nobody").status_code == 404


def test_the_last_admin_reads_the_reason_on_the_page(studio):
    admin = sign_in(studio, "admin")
    with studio.database.reading() as session:
        own = get_user(session, "admin").id
    assert admin.get(f"/users/{own}").headers["location"] == "/account"
    for verb in ("disable", "remove", "role"):
        refused = admin.post(f"/users/{own}/{verb}")
        assert refused.status_code == 409
        assert "is the last admin who can come in" in refused.text


def test_a_name_that_can_not_be_is_refused_on_the_form(studio):
    admin = sign_in(studio, "admin")
    for name, status in (("Ada Lovelace", 422), ("eve", 409), ("", 422)):
        refused = admin.post("/users", data={"name": name})
        assert refused.status_code == status
        assert "Add a user" in refused.text
        assert 'role="alert"' in refused.text
    added = admin.post("/users", data={"name": "grace"})
    assert 'id="link"' in added.text


def test_the_address_where_a_secret_was_shown_once_leads_on(studio):
    admin = sign_in(studio, "admin")
    assert admin.get("/users/user_1/login-link").headers["location"] == "/users/user_1"
    assert admin.get("/account/tokens").headers["location"] == "/account"
