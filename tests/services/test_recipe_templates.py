"""Recipe templates: checked as a recipe is, open as to data and models, readable when recipes have more settings."""

from typing import Any

import pytest

from app.domain.errors import Conflict, InvalidInput, RecipeInvalid
from app.domain.recipe import parse_recipe
from app.services import recipe_templates, runs
from app.store.database import Database, now
from app.store.tables import RecipeTemplate, Run, User
from tests.conftest import Library

WEIGHTS = {"weights": {"preset": "within_prompt", "target_ess": 0.4}}
BY_MODEL = {**WEIGHTS, "reward": {"source": "model"}}


@pytest.mark.parametrize("data", [WEIGHTS, BY_MODEL, {"method": "dpo", "policy": {"adaptation": "lora"}}])
def test_data_set_and_models_may_be_left_open(data: dict[str, Any]) -> None:
    settings = recipe_templates.check_settings(data)
    assert "dataset" not in settings
    assert "model" not in settings["policy"]
    assert ("model" in settings["reward"]) is (data is not BY_MODEL)
    assert parse_recipe({**settings, "dataset": "data_x", "policy": {**settings["policy"], "model": "m"},
                         "reward": {**settings["reward"], **({"model": "r"} if data is BY_MODEL else {})}})  # fmt: skip
    assert recipe_templates.check_settings(settings) == settings


def test_what_is_chosen_stays_and_a_consent_does_not(library: Library) -> None:
    recipe = library.recipe().to_dict()
    recipe["reward"]["accept_inverted"] = True
    settings = recipe_templates.check_settings(recipe)
    assert settings == {**recipe, "reward": {**recipe["reward"], "accept_inverted": False}}


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({**WEIGHTS, "temperature": 1}, "temperature"),
        ({**WEIGHTS, "training": {"batch_sise": 4}}, "training.batch_sise"),
        ({**WEIGHTS, "training": {"batch_size": 0}}, "training.batch_size"),
        ({**WEIGHTS, "policy": "small"}, "policy"),
        ({}, "weights"),
    ],
)
def test_everything_wrong_is_named_by_its_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeInvalid) as raised:
        recipe_templates.check_settings(data)
    assert [one["field"] for one in raised.value.problems] == [field]


def test_what_is_no_object_is_no_recipe() -> None:
    with pytest.raises(RecipeInvalid, match="an object with its settings by name"):
        recipe_templates.check_settings(["method"])


def test_a_template_is_kept_without_the_name_of_a_run_and_needs_one_of_its_own(database: Database, library: Library) -> None:
    with database.writing() as session:
        kept = recipe_templates.create(session, library.user.id, " Half of each batch ", {**WEIGHTS, "name": "Monday"})
        assert (kept.name, kept.recipe["name"], kept.private) == ("Half of each batch", "", False)
        with pytest.raises(InvalidInput, match="1 to 120 characters"):
            recipe_templates.create(session, library.user.id, " ", WEIGHTS)


def test_a_run_s_recipe_is_kept_by_its_name_and_is_private_where_the_run_is(database: Database, library: Library) -> None:
    with database.writing() as session:
        shared = runs.launch(session, library.user.id, library.recipe(name="Good one"))
        hidden = runs.launch(session, library.user.id, library.recipe(name="Hidden one"), private=True)
        kept = [recipe_templates.keep_run(session, library.user.id, run.id) for run in (shared, hidden)]
        assert [(one.name, one.private) for one in kept] == [("Good one", False), ("Hidden one", True)]
        assert kept[0].recipe == {**shared.recipe, "name": ""}
        session.get_one(Run, shared.id).recipe = {}
        with pytest.raises(Conflict, match="follows no recipe"):
            recipe_templates.keep_run(session, library.user.id, shared.id)


def test_a_template_from_before_a_setting_has_it_as_it_was_done_then(database: Database, library: Library) -> None:
    with database.writing() as session:
        kept = recipe_templates.create(session, library.user.id, "Old", WEIGHTS)
        older = {**kept.recipe, "evaluation": {k: v for k, v in kept.recipe["evaluation"].items() if k != "split"}}
        kept.recipe = older
        assert recipe_templates.revive_settings(kept)["evaluation"]["split"] == "prompt"


def test_names_that_are_gone_or_private_are_told(database: Database, library: Library) -> None:
    settings = library.recipe().to_dict()
    with database.writing() as session:
        session.add(User(id="user_eve", name="Eve", role="member", created_at=now(session)))
        session.flush()
        assert recipe_templates.find_absent(session, "user_eve", settings) == []
        library.dataset = session.merge(library.dataset)
        library.dataset.private = True
        session.flush()
        assert recipe_templates.find_absent(session, "user_eve", settings) == ["dataset"]
        settings["policy"]["model"] = "model_gone"
        assert recipe_templates.find_absent(session, library.user.id, settings) == ["policy.model"]


def test_a_template_is_forgotten_alone(database: Database, library: Library) -> None:
    with database.writing() as session:
        kept = recipe_templates.create(session, library.user.id, "Kept", WEIGHTS)
        recipe_templates.delete(session, library.user.id, kept.id)
        session.flush()
        assert session.get(RecipeTemplate, kept.id) is None
