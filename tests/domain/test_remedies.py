"""What findings would change: always a recipe again, and the values that the remedy speaks of."""

from typing import Any

import pytest

from app.domain.recipe import parse_recipe
from app.domain.remedies import Temperatures, make_tuning, suggest_changes
from app.domain.signatures import SIGNATURES

BY_MODEL: dict[str, Any] = {"source": "model", "model": "r"}
KNOWN = Temperatures(used=0.1, balanced=0.42123, safe=0.05)
LOW = Temperatures(used=3.0, balanced=0.4, safe=0.05)


def resolve(**parts: Any) -> dict[str, Any]:
    weights = {"lambda": 0.1, **parts.pop("weights", {})}
    return parse_recipe({"dataset": "d", "policy": {"model": "m"}, **parts, "weights": weights}).to_dict()


def as_dict(name: str, recipe: dict[str, Any], known: Temperatures = KNOWN) -> dict[str, Any]:
    return {change.field: change.value for change in suggest_changes(name, recipe, known)}


@pytest.mark.parametrize("known", [KNOWN, LOW, Temperatures()], ids=["raise", "lower", "unknown"])
@pytest.mark.parametrize("weights", [{}, {"preset": "paper"}, {"lambda": None, "target_ess": 0.3}])
@pytest.mark.parametrize("reward", [{}, BY_MODEL, {**BY_MODEL, "second": "s", "third": "t", "caution": 2}])
@pytest.mark.parametrize("name", [*SIGNATURES, "damaged_checkpoint"])
def test_a_recipe_with_the_changes_is_a_recipe(
    name: str, reward: dict[str, Any], weights: dict[str, Any], known: Temperatures
) -> None:
    change_and_parse(name, resolve(reward=reward, weights=weights), known)


@pytest.mark.parametrize("responses", ["both", "all"])
@pytest.mark.parametrize("name", list(SIGNATURES))
def test_a_recipe_of_draws_with_the_changes_is_a_recipe(name: str, responses: str) -> None:
    weights = {"preset": "draws", "responses": responses}
    change_and_parse(name, resolve(reward=BY_MODEL, weights=weights), KNOWN)


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_a_recipe_of_fresh_responses_with_the_changes_is_a_recipe(name: str) -> None:
    change_and_parse(name, resolve(reward=BY_MODEL, online={"every": 4}), KNOWN)


@pytest.mark.parametrize("name", ["online_collapse", "flat_groups", "unfinished_answers", "low_diversity", "reward_disagreement"])
def test_what_can_not_be_doubled_is_not_suggested(name: str) -> None:
    reward = {**BY_MODEL, "second": "s", "caution": 100}
    most: dict[str, Any] = {
        "online": {"every": 1, "num_responses": 64}, "evaluation": {"max_new_tokens": 32_768}, "training": {"batch_size": 65_536},
    }  # fmt: skip
    assert as_dict(name, resolve(reward=reward, **most)) == {}
    assert as_dict("flat_groups", resolve(online={"num_responses": 40})) == {"online.num_responses": 64}


def change_and_parse(name: str, recipe: dict[str, Any], known: Temperatures) -> None:
    for field, value in as_dict(name, recipe, known).items():
        *parts, setting = field.split(".")
        place = recipe[parts[0]] if parts else recipe
        assert place[setting] != value
        place[setting] = value
    parse_recipe(recipe)


def test_data_of_another_policy_ask_for_fine_tuning_on_all_of_them_first() -> None:
    assert as_dict("foreign_data", resolve()) == {"method": "sft"}
    assert as_dict("foreign_data", resolve(weights={"responses": "chosen"})) == {"method": "sft", "weights.responses": "both"}


def test_fine_tuning_before_another_method_has_a_rate_of_its_own() -> None:
    parts = {"dataset": "data_1", "policy": {"model": "model_1", "adaptation": "lora"}, "training": {"learning_rate": 4e-5}}
    tuned = {
        method: make_tuning(parse_recipe({**parts, "method": method, "weights": {"lambda": 1.0}}).to_dict(), "First")
        for method in ("var", "dpo", "kto")
    }
    assert {method: one["training"]["learning_rate"] for method, one in tuned.items()} == {"var": 4e-5, "dpo": 2e-4, "kto": 2e-4}
    assert {parse_recipe(one).method.value for one in tuned.values()} == {"sft"}


def test_a_collapse_asks_for_the_temperature_that_balances_and_for_no_target_beside_it() -> None:
    assert as_dict("weight_collapse", resolve()) == {"weights.lambda": 0.421}
    aimed = resolve(weights={"lambda": None, "target_ess": 0.05})
    assert as_dict("weight_collapse", aimed) == {"weights.lambda": 0.421, "weights.target_ess": None}
    assert as_dict("weight_collapse", resolve(weights={"logprob_norm": "sum"}), LOW) == {"weights.logprob_norm": "mean"}


@pytest.mark.parametrize("preset", ["within_prompt", "reward_weighted", "draws"])
def test_no_norm_of_log_probabilities_is_suggested_where_no_weight_reads_them(preset: str) -> None:
    recipe = resolve(reward=BY_MODEL, weights={"preset": preset})
    assert as_dict("weight_collapse", recipe, LOW) == as_dict("plain_sft", recipe, KNOWN) == {}
    assert as_dict("length_driven", recipe) == {"reward.length_control": True}
    controlled = resolve(reward={**BY_MODEL, "length_control": True}, weights={"preset": preset})
    assert as_dict("length_driven", controlled, LOW) == {}


@pytest.mark.parametrize(("form", "expected"), [("posterior", {"weights.logprob_norm": "mean"}), ("reward", {})])
def test_fresh_responses_are_weighed_by_log_probabilities_unless_by_the_reward_alone(form: str, expected: object) -> None:
    weights = {"preset": "within_prompt", "weight_form": form}
    assert as_dict("plain_sft", resolve(reward=BY_MODEL, weights=weights, online={"every": 4})) == expected


def test_a_small_test_set_asks_for_more_held_out_and_for_no_fewer_prompts_than_are_enough() -> None:
    assert as_dict("small_held_out", resolve(evaluation={"share": 0.8})) == {}
    capped = {"evaluation.share": 0.2, "evaluation.num_test_prompts": 97}
    assert as_dict("small_held_out", resolve(evaluation={"share": 0.1, "num_test_prompts": 32})) == capped


def test_weights_that_are_all_alike_ask_for_a_smaller_temperature() -> None:
    assert as_dict("plain_sft", resolve(), LOW) == {"weights.lambda": 0.4}
    assert as_dict("plain_sft", resolve(), KNOWN) == {}


def test_an_overflow_asks_for_a_temperature_that_is_large_enough_rounded_up() -> None:
    assert as_dict("overflow_risk", resolve(), Temperatures(used=0.1, balanced=0.2, safe=1.2341)) == {"weights.lambda": 1.24}
    assert as_dict("overflow_risk", resolve(), Temperatures(used=0.1, balanced=2.0, safe=1.2341)) == {"weights.lambda": 2.0}
    assert as_dict("overflow_risk", resolve(), Temperatures(used=1e-9)) == {}


def test_rewards_that_contradict_the_labels_give_way_to_them() -> None:
    rewarded = resolve(reward={"source": "model", "model": "r"})
    expected = {"reward.source": "preference", "reward.model": None, "weights.cross_reward": "reuse"}
    assert as_dict("inverted_rewards", rewarded) == expected
    assert as_dict("inverted_rewards", resolve()) == {}


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("low_diversity", "training.batch_size", 16),
        ("divergence", "training.learning_rate", 3.3e-06),
        ("small_held_out", "evaluation.share", 0.1),
        ("online_collapse", "online.num_responses", 8),
        ("truncated", "tokens.overlong", "drop"),
        ("unfinished_answers", "evaluation.max_new_tokens", 256),
    ],
)
def test_a_remedy_with_a_value_is_told_as_one(name: str, field: str, value: object) -> None:
    assert as_dict(name, resolve()) == {field: value}
