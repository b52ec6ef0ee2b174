"""Accounts in a real browser: a token made and revoked, a user added and disabled, the log; at 360 px, in both themes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.services import accounts, acts, users
from app.store.accounts import find_user
from app.store.database import now
from app.store.tables import Act
from app.system.identifiers import new_id
from tests.browser.payloads import PAYLOADS
from tests.browser.studio import WebStudio

SHOTS = os.environ.get("SHOTS")


def shoot(page: Page, name: str) -> None:
    """A picture to look at, where SHOTS names a folder."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@pytest.fixture
def ann(studio: WebStudio) -> Iterator[str]:
    """A member whose token, and what was done with it, is an attack; the studio is that of all browser tests."""
    with studio.database.writing() as session:
        user = accounts.create_user(session, "ann")
        accounts.create_token(session, user, PAYLOADS[0][:80], days=30)
        session.add(
            Act(
                id=new_id("act"), at=now(session), kind="signed_in", actor_id=user.id, actor=PAYLOADS[1][:120],
                address="192.0.2.1", user_id=user.id, text=PAYLOADS[2],
            )
        )  # fmt: skip
    yield user.id
    with studio.database.writing() as session:
        for name in ("ann", "grace"):
            found = find_user(session, name)
            if found is not None:
                users.remove(session, acts.STUDIO, found.id)


def test_a_token_is_made_shown_once_and_revoked(page: Page, studio: WebStudio) -> None:
    page.goto("/account")
    page.get_by_label("What it is for").fill("wall dashboard")
    page.get_by_label("It may").select_option("read")
    page.get_by_role("button", name="Make a token").click()
    expect(page.get_by_role("heading", name="The new token")).to_be_visible()
    secret = page.locator("#secret").inner_text()
    assert len(secret) >= 40
    shoot(page, "account")
    page.goto("/account")
    expect(page.locator("body")).not_to_contain_text(secret)
    page.get_by_label("Name of wall dashboard").fill("office wall")
    page.get_by_label("New end of wall dashboard").select_option("0")
    page.get_by_role("button", name="Change wall dashboard").click()
    row = page.locator("tr", has=page.get_by_text("office wall", exact=True))
    expect(row).to_contain_text("without expiry")
    page.get_by_role("button", name="Revoke office wall").click()
    page.locator("#confirm-yes").click()
    expect(page.get_by_label("Name of office wall")).to_have_count(0)
    expect(page.get_by_role("region", name="What was done lately").first).to_contain_text("Token revoked")


def test_a_user_is_added_disabled_and_removed_and_texts_stay_texts(page: Page, studio: WebStudio, ann: str) -> None:
    page.goto("/users")
    page.get_by_label("Name").fill("grace")
    page.get_by_role("button", name="Add and make a login link").click()
    expect(page.locator("#link")).to_contain_text("/login/")
    shoot(page, "added")
    page.get_by_role("button", name="Disable").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".badge")).to_have_text("disabled")
    shoot(page, "disabled")
    page.get_by_role("button", name="Remove").click()
    page.locator("#confirm-yes").click()
    expect(page.get_by_role("link", name="grace (removed)", exact=True)).to_be_visible()
    page.goto(f"/users/{ann}")
    expect(page.locator("strong", has_text=PAYLOADS[0][:40].strip())).to_be_visible()
    page.goto("/acts")
    expect(page.get_by_role("region", name="Log of acts")).to_contain_text(PAYLOADS[2][:40].strip())
    assert page.evaluate("window.stolen") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_of_accounts_fit_a_phone(page: Page, studio: WebStudio, ann: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("/account", "/users", f"/users/{ann}", "/acts"):
            page.goto(path)
            shoot(page, f"{path.strip('/').split('/')[0]}{path.count('/')}-{width}-{scheme}")
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert (path, width, overflow) == (path, width, 0)
            unlabelled = "input:not([type=hidden]), select"
            assert page.evaluate(f"[...document.querySelectorAll('{unlabelled}')].filter(e => !e.labels.length).length") == 0
