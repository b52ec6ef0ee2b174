"""Settings in the launch form's words, and the links of findings that fill the form."""

import ast
from urllib.parse import parse_qsl, urlsplit

import pytest

from app.domain.events import Change
from app.domain.recipe import Recipe, parse_recipe
from app.domain.signatures import SIGNATURES
from app.web.recipes import clone_values, read_order
from app.web.rendering.fields import RECIPE_FIELDS
from app.web.rendering.form_words import _NAMED, BY_PATH, SWITCHED, change_in_words, clone_address, in_form_words
from tests.architecture.tree import list_modules, parse

RECIPE = {
    "dataset": "data_1", "policy": {"model": "model_1"}, "reward": {"source": "model", "model": "model_2"},
    "weights": {"preset": "paper", "target_ess": 0.4},
}  # fmt: skip


def test_the_forms_words_replace_the_recipes() -> None:
    said = "To launch anyway, set reward.accept_inverted to true, or change weights.mean_one to off."
    assert (
        in_form_words(said) == "To launch anyway, tick “I know, and mean it”, or change “Rescale weights to mean 1” to “Nothing”."
    )


def test_no_remedy_shows_a_path_of_the_recipe() -> None:
    paths = {field.path for field in RECIPE_FIELDS if "." in field.path}
    for signature in SIGNATURES.values():
        said = in_form_words(f"{signature.rule} {signature.remedy}")
        assert not [path for path in paths if path in said], signature.name


def test_no_remedy_of_data_shows_an_options_name_where_the_form_has_a_label() -> None:
    """The mapping's form says "Leave out duplicates", so the finding above it does too."""
    said = in_form_words("Switch strip_template on, or switch leave_out_duplicates and leave_out_near_duplicates on.")
    assert said == "Switch “Strip template” on, or switch “Leave out duplicates” and “Leave out near duplicates” on."


@pytest.mark.long
def test_what_a_sentence_sets_a_setting_to_is_one_of_its_values() -> None:
    """Else the form's words would quote half of a sentence as an option: set “Split pairs” to “take” every …"""
    odd = [
        (str(path), setting, value)
        for path in list_modules("app", "worker")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for _, setting, value in _NAMED.findall(node.value)
        if value and not value.isdigit() and value not in SWITCHED and value not in dict(BY_PATH[setting].choices)
    ]
    assert odd == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change(field="weights.lambda", value=0.42), "λ = 0.42"),
        (Change(field="evaluation.max_new_tokens", value=256), "“Longest answer” = 256"),
        (Change(field="weights.logprob_norm", value="mean"), "“Log-probability of a response” = Mean per token"),
        (
            Change(field="policy.lora.target_modules", value=["all-linear", "experts.w"]),
            "“LoRA target modules” = all-linear, experts.w",
        ),
        (Change(field="gone.setting", value=1), "“gone.setting” = 1"),
    ],
)
def test_a_change_is_told_by_the_fields_label(change: Change, words: str) -> None:
    assert change_in_words([change]) == words


def test_a_link_fills_the_form_with_the_recipe_and_all_changes() -> None:
    changes = [
        Change(field="reward.source", value="preference"), Change(field="reward.model", value=None),
        Change(field="weights.cross_reward", value="reuse"),
    ]  # fmt: skip
    address = urlsplit(clone_address(changes, "run_1"))
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    assert (address.path, query.pop("clone")) == ("/runs/new", "run_1")
    made = read_order({**clone_values(parse_recipe(RECIPE).to_dict()), **query})
    assert isinstance(made, Recipe)
    assert (made.reward.source, made.reward.model, made.weights.cross_reward) == ("preference", None, "reuse")
