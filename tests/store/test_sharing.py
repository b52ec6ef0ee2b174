"""Who may see what, by the rows themselves: parts of a thing hide it, and what was there before stays as private as it was."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.domain.sweep import parse_request
from app.services import runs, scorings, sweeps
from app.settings import Settings
from app.store import migrations, sharing
from app.store.database import Database, now
from app.store.sharing import NOUNS, find_visible, visible_to
from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, Run, Scoring, Sweep, User
from tests.conftest import Library, make_library

BEFORE = "20261130_chats"
USER = "INSERT INTO users (id, name, role, created_at) VALUES (:id, :id, 'member', '2026-01-01')"
MODEL = """INSERT INTO models (id, owner_id, name, kind, source, path, facts, created_at)
    VALUES ('model_old', 'ada', 'Old', 'policy', 'hub', 'a/b', '{}', '2026-01-01')"""


@pytest.fixture
def session(either_database: Database) -> Iterator[Session]:
    with either_database.writing() as session:
        yield session


@pytest.fixture
def library(either_database: Database) -> Library:
    """What Ada has, of whom Eve and Bob are colleagues."""
    library = make_library(either_database)
    with either_database.writing() as session:
        for name in ("Eve", "Bob"):
            session.add(User(id=f"user_{name.lower()}", name=name, role="member", created_at=now(session)))
    return library


def seen_by(session: Session, user_id: str, things: list[tuple[type, str]]) -> list[str]:
    return [key for table, key in things if find_visible(session, table, user_id, key) is not None]


@pytest.mark.parametrize("part", ["dataset", "policy"])
def test_what_is_made_of_something_private_is_seen_by_its_maker_and_the_parts_owner(
    library: Library, session: Session, part: str
) -> None:
    recipe = library.recipe()
    run = runs.launch(session, "user_eve", recipe)
    scoring = scorings.request(session, "user_eve", recipe)
    sweep = sweeps.launch(session, "user_eve", parse_request({"recipe": recipe.to_dict(), "lambda": [0.3, 1]}))
    things = [(Run, run.id), (Scoring, scoring.id), (Sweep, sweep.id)]
    assert seen_by(session, "user_bob", things) == [run.id, scoring.id, sweep.id]
    table, key = (Dataset, library.dataset.id) if part == "dataset" else (Model, library.policy.id)
    session.get_one(table, key).private = True
    session.get_one(User, "user_ada").role = "member"
    session.flush()
    assert seen_by(session, "user_bob", things) == []
    assert seen_by(session, "user_ada", things) == seen_by(session, "user_eve", things) == [run.id, scoring.id, sweep.id]
    listed = session.scalars(session.query(Run.id).where(visible_to("user_bob", Run)).statement).all()
    assert listed == []


def test_the_aliases_of_a_criterion_are_made_once_for_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in NOUNS:
        visible_to("user_ada", table)
    monkeypatch.setattr(sharing, "aliased", None)
    for table in NOUNS:
        visible_to("user_eve", table)


def test_prompts_answers_and_comparisons_hide_with_what_they_are_made_of(library: Library, session: Session) -> None:
    at = now(session)
    owned = {"owner_id": "user_eve", "created_at": at}
    source = {"kind": "dataset", "dataset_id": library.dataset.id}
    session.add(PromptSet(id="prompts_1", name="P", sha256="p" * 64, num_prompts=1, facts={}, source=source, **owned))
    session.flush()
    session.add(Answers(
        id="answers_1", name="A", fingerprint="f", prompt_set_id="prompts_1", model={}, model_id=library.policy.id,
        model_name="M", num_draws=1, sampling={}, used_at=at, **owned,
    ))  # fmt: skip
    session.add(
        Comparison(id="comparison_1", name="C", prompt_set_id="prompts_1", answers_ids=["answers_1", "answers_2"], **owned)
    )
    session.flush()
    things: list[tuple[type, str]] = [(PromptSet, "prompts_1"), (Answers, "answers_1"), (Comparison, "comparison_1")]
    assert len(seen_by(session, "user_bob", things)) == 3
    session.get_one(Model, library.policy.id).private = True
    session.flush()
    assert seen_by(session, "user_bob", things) == ["prompts_1"]
    session.get_one(Dataset, library.dataset.id).private = True
    session.flush()
    assert seen_by(session, "user_bob", things) == []
    assert len(seen_by(session, "user_eve", things)) == 3


@pytest.mark.parametrize(("users", "private"), [(["ada"], False), (["ada", "eve"], True)])
def test_what_was_there_before_is_private_where_there_is_more_than_one_user(
    settings: Settings, users: list[str], private: bool
) -> None:
    database = Database(settings)
    with database.rebuilding() as connection:
        migrations.upgrade(connection, BEFORE)
        for user in users:
            connection.execute(text(USER), {"id": user})
        connection.execute(text(MODEL))
        migrations.upgrade(connection)
    with database.reading() as session:
        assert session.get_one(Model, "model_old").private is private
        assert session.get_one(Model, "model_old").owner == "ada"
    database.close()
