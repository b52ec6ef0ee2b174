"""Users, tokens and the log of acts over REST: what each may do, and what a sign-in costs and is limited by."""

import re

import pytest
from starlette.testclient import TestClient

from app.services import accounts
from app.store.accounts import get_user
from app.system.identifiers import new_id
from app.web.security import FailedTries, client_of
from tests.web.conftest import URL

API = "/api/v1"


@pytest.fixture
def ann(studio) -> dict[str, str]:
    """A member that only this test knows: her user's id, a token and its id."""
    with studio.database.writing() as session:
        user = accounts.create_user(session, new_id("ann").replace("_", "-"))
        secret = accounts.create_token(session, user, "laptop", days=30)
        token = accounts.authenticate(session, secret, "api")[1]
        return {"id": user.id, "name": user.name, "secret": secret, "token": token.id}


# What a member is told who asks for what is an admin's.
FOR_ADMINS = [
    ("GET", "/users", None, 403),
    ("POST", "/users", {"name": "mallory"}, 403),
    ("GET", "/users/{id}", None, 403),
    ("PATCH", "/users/{id}", {"disabled": True}, 403),
    ("PATCH", "/users/{eve}", {"role": "admin"}, 403),
    ("DELETE", "/users/{id}", None, 403),
    ("DELETE", "/users/{eve}", None, 403),
    ("POST", "/users/{id}/sign-out", {}, 403),
    ("POST", "/users/{eve}/login-link", None, 403),
    ("GET", "/tokens?user_id={id}", None, 403),
    ("GET", "/acts?user_id={id}", None, 403),
    ("PATCH", "/tokens/{token}", {"name": "mine"}, 404),
    ("DELETE", "/tokens/{token}", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), FOR_ADMINS, ids=lambda value: str(value))
def test_a_member_changes_and_sees_nothing_of_others(studio, eve, ann, method, path, body, status):
    eve_id = eve.get(f"{API}/account").json()["id"]
    response = eve.request(method, API + path.format(eve=eve_id, **ann), json=body)
    assert response.status_code == status, response.text
    assert studio.client().get(f"{API}/users/{ann['id']}").json()["state"] == "active"
    assert studio.client(ann["secret"]).get(f"{API}/account").status_code == 200


def test_an_admin_adds_disables_enables_and_removes_a_user(client, studio):
    added = client.post(f"{API}/users", json={"name": "grace"})
    assert added.status_code == 201
    assert added.headers["cache-control"] == "no-store"
    grace = added.json()
    browser = studio.client("", origin=URL)
    assert browser.post(re.sub("^.*(?=/login/)", "", grace["login_link"])).status_code == 303
    assert browser.get(f"{API}/account").json()["name"] == "grace"
    path = f"{API}/users/{grace['id']}"
    assert client.get(path).json()["num_sessions"] == 1
    assert client.patch(path, json={"disabled": True, "role": "admin"}).json()["state"] == "disabled"
    assert browser.get(f"{API}/account").status_code == 401
    assert client.post(f"{path}/login-link").status_code == 409
    assert client.patch(path, json={"disabled": False}).json()["role"] == "admin"
    link = client.post(f"{path}/login-link").json()["login_link"]
    assert browser.post(re.sub("^.*(?=/login/)", "", link)).status_code == 303
    assert client.post(f"{path}/sign-out").json() == {"num_ended": 2}
    assert client.delete(path).status_code == 204
    assert client.get(path).json()["state"] == "removed"
    assert client.get(path).json()["name"] == "grace (removed)"
    assert client.delete(path).status_code == 409
    assert client.get(f"{API}/users").json()["items"][-1]["name"] == "grace (removed)"
    assert client.get(f"{API}/users/user_nobody").status_code == 404


def test_the_last_admin_is_told_why_not(client):
    own = client.get(f"{API}/account").json()["id"]
    for response in (
        client.delete(f"{API}/users/{own}"),
        client.patch(f"{API}/users/{own}", json={"disabled": True}),
        client.patch(f"{API}/users/{own}", json={"role": "member"}),
    ):
        assert response.status_code == 409
        assert "is the last admin who can come in" in response.json()["detail"]


def test_a_member_makes_renames_limits_and_revokes_tokens(studio, ann):
    browser = studio.client("", origin=URL)
    assert browser.post(f"/login/{studio.login_secret(ann['name'])}").status_code == 303
    made = browser.post(f"{API}/tokens", json={"name": "dashboard", "scope": "read"})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    token = made.json()
    assert token["expires_at"] is not None  # as STUDIO_TOKEN_DAYS says
    assert browser.post(f"{API}/tokens", json={"days": 0}).json()["expires_at"] is None
    assert studio.client(token["secret"]).get(f"{API}/runs").status_code == 200
    path = f"{API}/tokens/{token['id']}"
    assert browser.patch(path, json={"name": "wall", "days": 0}).json()["expires_at"] is None
    listed = browser.get(f"{API}/tokens").json()["items"]
    assert [(row["name"], row["kind"]) for row in listed] == [("", "api"), ("wall", "api"), ("laptop", "api"), ("", "session")]
    assert [row["is_this"] for row in listed if row["kind"] == "session"] == [True]
    assert browser.delete(path).status_code == 204
    assert studio.client(token["secret"]).get(f"{API}/runs").status_code == 401
    assert browser.delete(path).status_code == 404
    session_id = next(row["id"] for row in listed if row["kind"] == "session")
    assert browser.patch(f"{API}/tokens/{session_id}", json={"days": 9}).status_code == 409
    assert browser.post(f"{API}/account/sign-out", json={"tokens": True}).status_code == 200
    assert browser.get(f"{API}/account").status_code == 401
    assert studio.client(ann["secret"]).get(f"{API}/account").status_code == 401


def test_a_token_makes_none_that_outlives_it(studio, ann):
    holder = studio.client(ann["secret"])
    own_end = holder.get(f"{API}/account").json()["expires_at"]
    for days in (0, 3000):
        assert holder.post(f"{API}/tokens", json={"days": days}).json()["expires_at"] == own_end
    assert holder.patch(f"{API}/tokens/{ann['token']}", json={"days": 0}).json()["expires_at"] == own_end


def open_by(studio, secret, user_id):
    """A browser that signed in by a login link which a token has made, and when its session ends."""
    link = studio.client(secret).post(f"{API}/users/{user_id}/login-link").json()["login_link"]
    browser = studio.client("", origin=URL)
    assert browser.post(f"/login/{link.rsplit('/', 1)[-1]}").status_code == 303
    return browser, browser.get(f"{API}/account").json()["expires_at"]


def test_no_sign_in_outlives_the_token_that_made_its_link(studio, client, ann):
    """Who finds an admin's token must not stay by a browser's session, the admin's own or another's, once it is revoked."""
    admin_id = client.get(f"{API}/account").json()["id"]
    for user_id in (admin_id, ann["id"]):
        token = client.post(f"{API}/tokens", json={"days": 2}).json()
        browser, end = open_by(studio, token["secret"], user_id)
        assert end == token["expires_at"], "not after the 30 days of a session"
        more = browser.post(f"{API}/tokens", json={"days": 0}).json()["secret"]
        assert client.delete(f"{API}/tokens/{token['id']}").status_code == 204
        assert browser.get(f"{API}/account").status_code == 401
        assert studio.client(more).get(f"{API}/account").status_code == 401, "nor what was made by that session"


def test_what_a_token_made_ends_with_it(studio, client, ann):
    holder = studio.client(ann["secret"])
    made = holder.post(f"{API}/tokens", json={"days": 20}).json()
    of_it = studio.client(made["secret"]).post(f"{API}/tokens", json={"days": 20}).json()
    soon = client.patch(f"{API}/tokens/{ann['token']}", json={"days": 1}).json()["expires_at"]
    ends = [row["expires_at"] for row in holder.get(f"{API}/tokens").json()["items"]]
    assert ends == [soon] * 3, "an end that comes earlier counts for them too"
    assert client.patch(f"{API}/tokens/{made['id']}", json={"days": 9}).json()["expires_at"] == soon
    assert client.delete(f"{API}/tokens/{ann['token']}").status_code == 204
    for secret in (made["secret"], of_it["secret"]):
        assert studio.client(secret).get(f"{API}/account").status_code == 401


def test_a_link_that_a_token_made_goes_with_it(studio, client, ann):
    token = client.post(f"{API}/tokens", json={"days": 2}).json()
    link = studio.client(token["secret"]).post(f"{API}/users/{ann['id']}/login-link").json()["login_link"]
    assert client.delete(f"{API}/tokens/{token['id']}").status_code == 204
    assert studio.client("", origin=URL).post(f"/login/{link.rsplit('/', 1)[-1]}").status_code == 401


def test_everybody_reads_the_own_acts_and_admins_all(studio, client, ann):
    own = studio.client(ann["secret"]).get(f"{API}/acts").json()["items"]
    assert [act["kind"] for act in own] == ["token_created", "user_added"]
    assert client.get(f"{API}/acts", params={"user_id": ann["id"]}).json()["items"] == own
    first = client.get(f"{API}/acts", params={"limit": 1}).json()
    second = client.get(f"{API}/acts", params={"limit": 1, "after": first["next"]}).json()
    assert first["items"][0]["id"] > second["items"][0]["id"]
    assert client.get(f"{API}/acts", params={"kind": "user_added"}).json()["items"]
    assert "there are" in client.get(f"{API}/acts", params={"kind": "murder"}).json()["detail"]
    assert ann["secret"] not in client.get(f"{API}/acts").text


def test_sign_ins_that_went_wrong_are_in_the_log_with_their_address(studio, client):
    stranger = TestClient(studio.app, base_url=URL, client=("203.0.113.44", 1), follow_redirects=False)
    statuses = [stranger.post("/login", data={"secret": f"guess-{number}"}).status_code for number in range(40)]
    assert statuses == [401] * 10 + [429] * 30
    acts = client.get(f"{API}/acts", params={"kind": "sign_in_failed"}).json()["items"]
    written = [act for act in acts if act["address"] == "203.0.113.44"]
    assert len(written) == 10
    assert not [act for act in acts if "guess-" in act["text"]]


def test_a_good_secret_passes_whatever_others_tried_from_the_same_address(studio):
    """Behind one address live many: an office, or all users of a proxy that says nothing of them."""
    stranger = TestClient(studio.app, base_url=URL, client=("203.0.113.45", 1), follow_redirects=False)
    assert [stranger.post("/login/guess").status_code for _ in range(12)][-1] == 429
    friend = TestClient(studio.app, base_url=URL, client=("203.0.113.45", 2), follow_redirects=False)
    assert friend.post("/login", data={"secret": studio.login_secret()}).status_code == 303
    assert friend.get(f"{API}/runs").status_code == 200
    with studio.database.reading() as session:
        (browser,) = [
            token for token in accounts.accounts.list_tokens(session, get_user(session, "admin").id, "session")
            if token.address == "203.0.113.45"
        ]  # fmt: skip
    assert browser.kind == "session"


def test_one_line_is_one_client():
    assert client_of("2001:db8:1:2::7") == client_of("2001:db8:1:2:ffff::9") != client_of("2001:db8:1:3::7")
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1") != client_of("192.0.2.2")
    assert len(client_of("x" * 1000)) == 64


def test_strangers_from_everywhere_write_few_lines():
    at = [0.0]
    tries = FailedTries(max_clients=50, clock=lambda: at[0])
    written = [tries.note(f"10.0.{number // 250}.{number % 250}") for number in range(1000)]
    assert [line for line in written if line is not None] == [0] * 30
    at[0] = 61.0
    assert tries.note("192.0.2.1") == 970
    assert len(tries.failures) == 50
