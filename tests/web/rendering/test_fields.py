"""The launch form's fields and choices: words for people."""

from datetime import UTC, datetime

import pytest

from app.store.tables import Model
from app.web.rendering.choices import model_choices
from app.web.rendering.fields import RECIPE_FIELDS, Field
from app.web.rendering.wording import LABELS, OPTIONS

MACHINE_WORDS = ("norm", "num ", "max ", "ess", "dtype", "logprob", "overlong", "grad ", "mean one")


@pytest.mark.parametrize("field", RECIPE_FIELDS, ids=lambda field: field.path)
def test_every_setting_is_explained_in_words_for_people(field: Field) -> None:
    assert field.help.endswith(".")
    assert not any(f"{word} " in f"{field.label.lower()} " for word in MACHINE_WORDS), field.label


def test_every_label_belongs_to_a_setting() -> None:
    assert set(LABELS) <= {field.path for field in RECIPE_FIELDS}


@pytest.mark.parametrize("field", [field for field in RECIPE_FIELDS if field.kind in ("select", "switch")], ids=lambda f: f.path)
def test_every_option_has_words_for_people(field: Field) -> None:
    if field.path not in ("method", "reward.source", "weights.preset"):  # shown with a text each
        assert all(text != option.replace("_", " ") for option, text in field.choices), field.choices


def test_every_worded_option_is_an_option() -> None:
    known = {field.path: set(field.options) for field in RECIPE_FIELDS}
    assert {path: set(texts) for path, texts in OPTIONS.items()} == {path: known[path] for path in OPTIONS}


def test_models_of_one_name_are_told_apart() -> None:
    def model(id: str, name: str, path: str) -> Model:
        at = datetime(2026, 1, 31, tzinfo=UTC)
        return Model(id=id, owner_id="u", name=name, kind="policy", source="folder", path=path, facts={}, created_at=at)

    made = model_choices(
        [model("model_aaaaaa", "tiny", "/m/tiny"), model("model_bbbbbb", "tiny", "/m/tiny"), model("c", "big", "/m/b")]
    )
    assert [choice.label for choice in made] == ["tiny · /m/tiny · …aaaaaa", "tiny · /m/tiny · …bbbbbb", "big"]
