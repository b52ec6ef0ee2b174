"""The life of accounts and tokens, and what the log of acts keeps of it, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from app.services import accounts, acts, queue, runs, users, workers
from app.services.acts import Actor
from app.services.keeping import retention
from app.settings import Settings
from app.store import accounts as store
from app.store import migrations
from app.store.database import Database, now
from app.store.tables import Act, Dataset, Run, User, Worker
from tests.conftest import make_library
from tests.flow.watching import launch


def add(session: Session, name: str, role: str = "member") -> tuple[User, Actor]:
    user = accounts.create_user(session, name, role)
    return user, Actor(user.id, is_admin=role == "admin", name=name, address="192.0.2.7")


def kinds(session: Session) -> list[str]:
    return [act.kind for act in store.list_acts(session, limit=1000)]


def test_who_is_disabled_comes_in_by_nothing_until_enabled(either_database: Database) -> None:
    with either_database.writing() as session:
        _, ada = add(session, "ada", "admin")
        eve, _ = add(session, "eve")
        token = accounts.create_token(session, eve, "laptop")
        browser = accounts.redeem_login(session, accounts.create_login_link(session, eve))
        link = accounts.create_login_link(session, eve)
        users.disable(session, ada, eve.id)
        for secret, kind in ((token, "api"), (browser, "session")):
            with pytest.raises(Unauthenticated):
                accounts.authenticate(session, secret, kind)
        with pytest.raises(Unauthenticated):
            accounts.redeem_login(session, link)
        with pytest.raises(Conflict, match="enable"):
            accounts.create_login_link(session, eve)
        users.enable(session, ada, eve.id)
        assert accounts.authenticate(session, token, "api")[0] is eve
        with pytest.raises(Unauthenticated):
            accounts.authenticate(session, browser, "session")


def test_what_a_removed_user_made_stays_and_the_name_is_free(either_database: Database) -> None:
    library = make_library(either_database)
    waiting, ended = launch(either_database, library), launch(either_database, library)
    with either_database.writing() as session:
        session.execute(update(Run).where(Run.id == ended).values(state="succeeded"))
        _, root = add(session, "root", "admin")
        owner, name = session.get_one(User, library.user.id), library.user.name
        token = accounts.create_token(session, owner, "laptop")
        users.remove(session, root, owner.id)
        with pytest.raises(Unauthenticated):
            accounts.authenticate(session, token, "api")
    with either_database.writing() as session:
        states = {run.id: run.state for run in session.scalars(select(Run))}
        assert states == {waiting: "cancelled", ended: "succeeded"}
        assert session.scalars(select(Dataset.owner_id)).first() == library.user.id
        assert store.find_name(session, library.user.id) == f"{name} (removed)"
        assert store.find_user(session, name) is None
        again = accounts.create_user(session, "grace")
        for user_id in (again.id, accounts.create_user(session, "grace2").id):
            users.remove(session, root, user_id)
        users.remove(session, root, accounts.create_user(session, "grace").id)
        assert sorted(session.scalars(select(User.name).where(User.name.startswith("grace (")))) == [
            "grace (removed 2)", "grace (removed)",
        ]  # fmt: skip
        with pytest.raises(Conflict, match="removed"):
            users.enable(session, root, again.id)
        with pytest.raises(Conflict, match="removed"):
            accounts.create_login_link(session, again)


@pytest.mark.parametrize("change", ["disable", "remove", "demote"])
def test_the_last_admin_who_can_come_in_stays(either_database: Database, change: str) -> None:
    with either_database.writing() as session:
        first, ada = add(session, "ada", "admin")
        other, _ = add(session, "bob", "admin")
        users.disable(session, ada, other.id)
        change_it = {
            "disable": lambda: users.disable(session, ada, first.id),
            "remove": lambda: users.remove(session, ada, first.id),
            "demote": lambda: users.change_role(session, ada, first.id, "member"),
        }[change]
        with pytest.raises(Conflict, match=r"ada is the last admin who can come in"):
            change_it()
        users.enable(session, ada, other.id)
        change_it()
        assert [admin.name for admin in store.lock_admins(session)] == ["bob"]


def test_a_member_looks_after_no_account_but_the_own(either_database: Database) -> None:
    with either_database.writing() as session:
        ada, _ = add(session, "ada", "admin")
        eve, actor = add(session, "eve")
        secret = accounts.create_token(session, ada, "laptop")
        token_id = accounts.authenticate(session, secret, "api")[1].id
        for forbidden in (
            lambda: users.disable(session, actor, ada.id), lambda: users.enable(session, actor, ada.id),
            lambda: users.remove(session, actor, ada.id), lambda: users.change_role(session, actor, eve.id, "admin"),
            lambda: users.sign_out_everywhere(session, actor, ada.id), lambda: users.find_user(session, actor, ada.id),
            lambda: users.remove(session, actor, eve.id),
        ):  # fmt: skip
            with pytest.raises(Forbidden):
                forbidden()
        for hidden in (
            lambda: accounts.revoke_token(session, actor, token_id),
            lambda: accounts.change_token(session, actor, token_id, name="mine"),
        ):
            with pytest.raises(NotFound):
                hidden()
        assert users.find_user(session, actor, eve.id) is eve


def test_signing_out_everywhere_spares_tokens_unless_asked(either_database: Database) -> None:
    with either_database.writing() as session:
        eve, actor = add(session, "eve")
        token = accounts.create_token(session, eve, "laptop")
        browsers = [accounts.redeem_login(session, accounts.create_login_link(session, eve)) for _ in range(2)]
        assert users.sign_out_everywhere(session, actor, eve.id) == 3  # with the link that was used up
        for secret in browsers:
            with pytest.raises(Unauthenticated):
                accounts.authenticate(session, secret, "session")
        assert accounts.authenticate(session, token, "api")
        users.sign_out_everywhere(session, actor, eve.id, tokens=True)
        with pytest.raises(Unauthenticated):
            accounts.authenticate(session, token, "api")


def test_a_token_is_renamed_given_another_end_and_revoked(either_database: Database) -> None:
    with either_database.writing() as session:
        eve, actor = add(session, "eve")
        secret = accounts.create_token(session, eve, "laptop", "read", 7)
        token = accounts.authenticate(session, secret, "api")[1]
        assert token.expires_at is not None
        assert timedelta(days=6) < token.expires_at - now(session) <= timedelta(days=7)
        accounts.change_token(session, actor, token.id, name=" old laptop ", days=0)
        assert (token.name, token.expires_at) == ("old laptop", None)
        other = accounts.authenticate(session, accounts.create_token(session, eve, "phone", days=1), "api")[1]
        accounts.change_token(session, actor._replace(token_id=other.id), token.id, days=0)
        assert token.expires_at == other.expires_at  # a token makes nothing that outlives it
        with pytest.raises(InvalidInput, match="one line"):
            accounts.change_token(session, actor, token.id, name="a\nb")
        with pytest.raises(InvalidInput, match="1 to 3650 days"):
            accounts.change_token(session, actor, token.id, days=9999)
        accounts.revoke_token(session, actor, token.id)
        session.flush()
        with pytest.raises(Unauthenticated):
            accounts.authenticate(session, secret, "api")


def test_the_log_says_who_when_from_where_what_and_no_secret(either_database: Database) -> None:
    with either_database.writing() as session:
        _, ada = add(session, "ada", "admin")
        eve, _ = add(session, "eve")
        link = accounts.create_login_link(session, eve, actor=ada)
        browser = accounts.redeem_login(session, link, address="198.51.100.9")
        token = accounts.create_token(session, eve, "laptop", actor=ada)
        accounts.note_failure(session, link, "203.0.113.5", num_more=3)
        accounts.note_failure(session, "guess-of-a-stranger", "203.0.113.5")
        users.disable(session, ada, eve.id)
        users.remove(session, ada, eve.id)
        found = store.list_acts(session, of=eve.id)[::-1]
        assert [(act.kind, act.actor, act.address) for act in found] == [
            ("user_added", "the studio", ""),
            ("link_created", "ada", "192.0.2.7"),
            ("signed_in", "eve", "198.51.100.9"),
            ("token_created", "ada", "192.0.2.7"),
            ("sign_in_failed", "somebody", "203.0.113.5"),
            ("user_disabled", "ada", "192.0.2.7"),
            ("user_removed", "ada", "192.0.2.7"),
        ]
        assert "3 more tries" in found[4].text
        assert set(kinds(session)) <= set(acts.KINDS)
        everything = repr([(act.actor, act.text, act.address) for act in session.scalars(select(Act))])
        for secret in (link, browser, token, "guess-of-a-stranger", accounts.digest_of(token)):
            assert secret not in everything


def test_what_an_admin_does_to_workers_and_runs_of_others_is_in_the_log(either_database: Database) -> None:
    library = make_library(either_database)
    run_id = launch(either_database, library)
    with either_database.writing() as session:
        _, root = add(session, "root", "admin")
        at = now(session)
        session.add(Worker(id="box", hostname="box", devices=[], slots=1, started_at=at, beat_at=at, load={}))
        session.flush()
        before = len(kinds(session))
        workers.pause(session, root, "box")
        workers.resume(session, root, "box")
        queue.pause(session, root, run_id)
        own = runs.launch(session, library.user.id, library.recipe()).id
        queue.pause(session, Actor(library.user.id, is_admin=False), own)
        assert kinds(session)[: len(kinds(session)) - before] == ["run_steered", "worker_steered", "worker_steered"]
        assert store.list_acts(session)[0].text.startswith(f"{run_id} of {library.user.name}: It was paused")


def test_the_log_keeps_what_the_setting_says_and_not_endless_failures(
    either_database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "MAX_FAILED", 3)
    with either_database.writing() as session:
        add(session, "eve")
        session.execute(update(Act).values(at=now(session) - timedelta(days=400)))
        for number in range(6):
            accounts.note_failure(session, f"guess {number}", f"192.0.2.{number}")
    forever = settings.model_copy(update={"acts_days": 0})
    assert retention.forget_old_acts(either_database, forever) == 3
    assert retention.forget_old_acts(either_database, settings) == 1
    with either_database.reading() as session:
        assert [act.address for act in store.list_acts(session)] == ["192.0.2.5", "192.0.2.4", "192.0.2.3"]


def test_a_token_of_before_keeps_working_without_an_end(either_settings: Settings) -> None:
    database = Database(either_settings)
    secret, at = "a-secret-of-an-older-version", "2026-01-01 00:00:00+00:00"
    with database.rebuilding() as connection:
        migrations.upgrade(connection, "20261129_states")
        connection.execute(text(f"INSERT INTO users (id, name, role, created_at) VALUES ('u', 'ada', 'admin', '{at}')"))
        connection.execute(
            text(
                "INSERT INTO tokens (digest, user_id, kind, name, scope, created_at) "
                f"VALUES ('{accounts.digest_of(secret)}', 'u', 'api', 'old', 'write', '{at}')"
            )
        )
    database.migrate()
    with database.writing() as session:
        user, token = accounts.authenticate(session, secret, "api")
        assert (user.name, token.name, token.expires_at) == ("ada", "old", None)
        accounts.revoke_token(session, Actor("u", is_admin=True), token.id)
    database.close()
