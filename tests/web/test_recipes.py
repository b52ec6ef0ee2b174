"""The launch form's values as a recipe, a sweep or a request for a preview; and a recipe as its values."""

from typing import Any

import pytest

from app.domain.errors import RecipeInvalid
from app.domain.preview.weights import PreviewRequest
from app.domain.recipe import Method, Recipe, parse_recipe
from app.domain.sweep import SweepRequest
from app.web.recipes import (
    STARTING_VALUES,
    at_fields,
    clone_values,
    methods_of,
    read_order,
    read_preview,
    read_scored,
    tell_price,
    tell_rates,
)
from app.web.rendering.fields import RECIPE_FIELDS

PLAIN = {**STARTING_VALUES, "dataset": "data_1", "policy.model": "model_1", "reward.source": "preference"}


SETTINGS = {"dataset": "data_1", "policy": {"model": "model_1"}, "weights": {"lambda": 0.3}}


def form(**changes: str) -> dict[str, str]:
    """A submitted form: every input, as it starts, but for the changes (`a__b` for the input a.b)."""
    untouched = {field.path: field.value for field in RECIPE_FIELDS if not field.path.startswith("weights.")}
    return {**untouched, "weights.preset": "paper", **PLAIN, **{name.replace("__", "."): text for name, text in changes.items()}}


def test_one_temperature_without_baselines_is_a_run() -> None:
    order = read_order(form(weights__lambda="0.3"))
    assert isinstance(order, Recipe)
    assert (order.method, order.weights.lambda_) == (Method.VAR, 0.3)


def test_an_untouched_form_lets_the_temperature_follow_the_rewards() -> None:
    weights = read_order(form()).weights
    assert (weights.lambda_, weights.target_ess, weights.fallback) == (None, 0.5, "reward_std")


def test_a_typed_temperature_takes_the_place_of_the_target() -> None:
    weights = read_order(form(weights__lambda="2", weights__target_ess="0.4")).weights
    assert (weights.lambda_, weights.target_ess, weights.fallback) == (2.0, None, "none")
    assert read_preview(form(weights__lambda="2", weights__target_ess="0.4")).target_ess == 0.4


def test_a_recipe_from_before_there_was_a_fallback_is_cloned_without_one() -> None:
    old = parse_recipe({**SETTINGS, "weights": {"target_ess": 0.4}}).to_dict()
    del old["weights"]["fallback"]
    values = clone_values(old)
    assert (values["weights.lambda"], values["weights.target_ess"], values["weights.fallback"]) == ("", "0.4", "none")


def test_several_temperatures_or_a_baseline_are_a_sweep() -> None:
    several = read_order(form(weights__lambda="0.1, 0.3;1  0.3"))
    assert isinstance(several, SweepRequest)
    assert several.lambdas == [0.1, 0.3, 1.0]
    beside = read_order(form(baseline__dpo="yes", name="Both"))
    assert isinstance(beside, SweepRequest)
    assert (beside.name, beside.lambdas, beside.baselines) == ("Both", [], ["dpo"])


def test_faults_of_a_sweep_stand_at_the_forms_own_fields() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        read_order(form(weights__lambda="0.1, much"))
    [problem] = at_fields(caught.value.problems)
    assert problem["field"] == "weights.lambda"
    assert problem["told"] == "Temperature λ must be a number, not 'much'."


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights__lambda": "0"}, "Temperature λ must be greater than 0, not 0."),
        ({"training__batch_size": "few"}, "Batch size must be a whole number, not 'few'."),
        ({"dataset": ""}, "Choose a data set."),
        (
            {"policy__quantization": "nf4"},
            "Bits of the frozen weights: Weights of 4 bits can't be trained themselves: set “Adaptation” to “A LoRA adapter”.",
        ),
    ],
)
def test_a_fault_is_told_with_its_fields_label_and_in_the_forms_words(changes: dict[str, str], told: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        read_order(form(**changes))
    assert [problem["told"] for problem in at_fields(caught.value.problems)] == [told]


@pytest.mark.parametrize("method", ["sft", "dpo", "reward_model"])
def test_what_a_method_does_not_read_cannot_refuse_it(method: str) -> None:
    hidden = {"weights__lambda": "nonsense", "online__every": "5", "noise__reward_std": "-1", "baseline__dpo": "yes"}
    order = read_order(form(method=method, reward__source="model", **hidden))
    assert isinstance(order, Recipe)
    assert (order.method, order.online.every, order.reward.source) == (method, None, "preference")


def test_a_setting_that_is_asked_of_no_method_does_not_exist() -> None:
    assert all(methods_of(field.path) for field in RECIPE_FIELDS)
    assert methods_of("name") == tuple(Method)
    assert methods_of("weights.mean_one") == (Method.VAR,)


RECIPES: list[dict[str, Any]] = [
    {"weights": {"preset": "paper", "lambda": 0.2, "mean_one": True}},
    {"weights": {"preset": "within_prompt", "target_ess": 0.4, "fallback": "reward_std"}, "noise": {"label_flip_share": 0.1}},
    {"weights": {"lambda": 1}, "reward": {"source": "model", "model": "m"}, "online": {"every": 20}},
    {"method": "sft", "weights": {"responses": "chosen", "loss_norm": "sequence_mean"}},
    {"method": "dpo", "weights": {}, "dpo": {"beta": 0.3}, "policy": {"model": "p", "adaptation": "lora", "quantization": "nf4"}},
    {"method": "reward_model", "weights": {}, "training": {"num_processes": 2}},
]


@pytest.mark.parametrize("parts", RECIPES, ids=lambda parts: parts.get("method", "var"))
def test_a_recipe_survives_the_form(parts: dict[str, Any]) -> None:
    recipe = parse_recipe({"dataset": "d", "policy": {"model": "p"}, **parts})
    assert read_order(clone_values(recipe.to_dict())) == recipe


def test_a_run_from_before_the_data_sets_scale_is_cloned_with_what_it_had() -> None:
    stored = parse_recipe({"dataset": "d", "policy": {"model": "p"}, "weights": {"preset": "paper", "lambda": 0.2}}).to_dict()
    stored["weights"]["mean_one"] = False  # as it was kept then
    assert clone_values(stored)["weights.mean_one"] == ""  # which is what the preset says
    stored["weights"]["mean_one"] = True
    assert clone_values(stored)["weights.mean_one"] == "batch"


def test_what_draws_and_further_plans_cost_is_told_before_they_are_made() -> None:
    draws = form(weights__preset="draws", draws__num_draws="16", draws__max_new_tokens="64")
    assert tell_price(draws) == "The reference answers each training prompt 16 times, with up to 64 tokens, once for all λ."
    plans = form(weights__preset="paper", weights__plans="4")
    assert tell_price({**draws, "draws.num_draws": "many"}) == tell_price({**draws, "method": "dpo"}) == ""
    assert tell_price(plans) == "Each of 4 batch plans is scored in full: scoring takes 4 times as long."
    assert tell_price({**plans, "weights.preset": "reward_weighted"}) == tell_price({**plans, "weights.plans": "1"}) == ""


def test_a_scoring_with_draws_takes_their_settings_along() -> None:
    by_model = {"reward__source": "model", "reward__model": "m", "draws__num_draws": "8"}
    assert read_scored(form(weights__preset="draws", **by_model)).draws.num_draws == 8
    assert read_scored(form(weights__preset="paper", **by_model)).draws.num_draws == 16


def test_a_scoring_does_not_depend_on_what_is_weighed() -> None:
    one = read_scored(form(weights__lambda="", weights__preset="within_prompt", reward__accept_inverted="yes"))
    assert one == read_scored(form(weights__lambda="0.1, 2"))
    assert read_scored(form(training__batch_size="4")) != one


def test_a_preview_shows_the_typed_temperatures_among_others_and_what_the_preset_leaves() -> None:
    request = read_preview(form(weights__lambda="0.5", weights__logprob_norm="mean", weights__mean_one="off", noise__seed="3"))
    assert request == PreviewRequest(
        presets=["paper"],
        lambdas=[0.03, 0.1, 0.3, 0.5, 1.0, 3.0],
        overrides={"logprob_norm": "mean", "mean_one": "off"},
        noise_seed=3,
    )
    assert read_preview(form(weights__lambda="", weights__target_ess="0.2")).target_ess == 0.2


def test_the_previewed_temperatures_have_the_size_of_the_rewards() -> None:
    assert read_preview(form(weights__lambda="2"), 5.0).lambdas == [0.3, 1.0, 2.0, 3.0, 10.0, 30.0]
    assert read_preview(form(weights__lambda="0.3"), 0.02).lambdas == [0.0003, 0.001, 0.003, 0.01, 0.03, 0.3]
    assert read_preview(form(weights__reward_norm="zscore"), 5.0).lambdas == [0.03, 0.1, 0.3, 1.0, 3.0]


def test_a_preview_of_no_temperature_names_the_input() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        read_preview(form(weights__lambda="0"))
    assert {problem["field"] for problem in at_fields(caught.value.problems)} == {"weights.lambda"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Learning rate: 1e-05, as is proposed for all weights under VAR."),
        ({"method": "dpo", "policy__adaptation": "lora"}, "Learning rate: 2e-05, as is proposed for a LoRA adapter under DPO."),
        ({"training__learning_rate": "0.001"}, ""),
        ({"training__learning_rate": "0.001", "baseline__dpo": "yes"}, "Learning rate: 0.0002 for DPO."),
        ({"baseline__dpo": "yes"}, "Learning rate: 1e-05, as is proposed for all weights under VAR; 2e-06 for DPO."),
        ({"training__learning_rate": "fast"}, ""),
        ({"method": "ppo"}, ""),
    ],
)
def test_where_a_learning_rate_comes_from_is_told(changes: dict[str, str], told: str) -> None:
    assert tell_rates(form(**changes)) == told


def test_a_cloned_run_leaves_a_proposed_learning_rate_to_the_method() -> None:
    assert clone_values(parse_recipe(SETTINGS).to_dict())["training.learning_rate"] == ""
    named = {**SETTINGS, "training": {"learning_rate": 3e-4}}
    assert clone_values(parse_recipe(named).to_dict())["training.learning_rate"] == "0.0003"
