"""Texts that can't be kept are refused where a user writes them, and mended where nobody can be asked."""

import pytest

from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid, InvalidInput, RecipeInvalid
from app.domain.model import ModelRequest
from app.domain.problems import parse
from app.domain.recipe import parse_recipe
from app.domain.sweep import parse_request
from app.domain.texts import is_keepable, make_keepable

RECIPE = {"dataset": "data_1", "policy": {"model": "model_1"}, "weights": {"preset": "paper", "lambda": 0.1}}
BAD = ("a\0b", "a\nb", "a\x1bb", "a\ud800b")


def fields_of(error: InvalidInput) -> list[str]:
    return [str(problem["field"]) for problem in error.problems]


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("field", ["name", "dataset", "policy.model", "policy.revision", "reward.judge"])
def test_a_recipe_names_the_field_that_holds_control_characters(field: str, text: str) -> None:
    part, _, name = field.rpartition(".")
    changed = {**RECIPE, part: {**RECIPE.get(part, {}), name: text}} if part else {**RECIPE, name: text}
    with pytest.raises(RecipeInvalid, match="The text holds control characters: remove them") as refused:
        parse_recipe(changed)
    assert fields_of(refused.value) == [field]


@pytest.mark.parametrize("text", BAD)
def test_sweeps_and_models_are_refused_as_recipes_are(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_request({"name": text, "recipe": RECIPE, "lambda": [0.1]})
    assert fields_of(refused.value) == ["name"]
    with pytest.raises(InvalidInput) as refused:
        parse(ModelRequest, {"kind": "policy", "source": "hub", "name": text}, InvalidInput)
    assert fields_of(refused.value) == ["name"]


@pytest.mark.parametrize(("name", "is_known"), [("a\nb", True), ("a\0b", False), ("a\ud800b", False)])
def test_a_column_may_be_named_over_two_lines_but_not_by_what_no_database_keeps(name: str, is_known: bool) -> None:
    mapping = {"shape": "pair", "columns": {"prompt": name, "chosen": "good", "rejected": "bad"}}
    if is_known:
        assert parse(ColumnMapping, mapping, DatasetInvalid).columns["prompt"] == name
        return
    with pytest.raises(DatasetInvalid, match="can't be kept") as refused:
        parse(ColumnMapping, mapping, DatasetInvalid)
    assert fields_of(refused.value)[0].startswith("columns.prompt")


def test_what_nobody_can_be_asked_about_is_mended_at_any_depth() -> None:
    told = {"k\0": ["a\ud800", {"b": "c\0d"}, 1, None, "λ 🙂\n"]}
    assert make_keepable(told) == {"k\ufffd": ["a\ufffd", {"b": "c\ufffdd"}, 1, None, "λ 🙂\n"]}


def test_every_text_that_a_database_refuses_is_known() -> None:
    assert all(is_keepable(text) for text in ("", "a\tb\n", "λ", "🙂", "\ufffd", "\x7f"))
    assert not any(is_keepable(text) for text in ("\0", "\ud800", "x\udfff"))
