"""Settings in the launch form's words, and the links of findings that fill the form."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from app.domain.events import Change
from app.domain.recipe import Recipe, parse_recipe
from app.domain.signatures import SIGNATURES
from app.web.recipes import clone_values, read_order
from app.web.rendering.fields import RECIPE_FIELDS
from app.web.rendering.form_words import change_in_words, clone_address, in_form_words

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
