import math
from typing import Any

import pytest

from app.domain.errors import RecipeInvalid
from app.domain.recipe import PRESETS, Recipe, parse_recipe, revive_recipe
from app.domain.weighting import name_scale


def recipe(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"dataset": "ds_1", "policy": {"model": "mdl_1"}, "weights": {"preset": "paper", "lambda": 0.1}}
    return {**data, **changes}


def problem_fields(data: Any) -> dict[str, str]:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(data)
    return {problem["field"]: problem["message"] for problem in caught.value.problems}


def test_a_stored_recipe_reads_back_equal() -> None:
    parsed = parse_recipe(recipe(reward={"source": "model", "model": "mdl_2"}))
    assert parse_recipe(parsed.to_dict()) == parsed


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_is_expanded_and_a_given_setting_beats_it(preset: str) -> None:
    data = recipe(reward={"source": "model", "model": "m"}, weights={"preset": preset, "lambda": 1, "loss_norm": "sequence_mean"})
    weights = parse_recipe(data).to_dict()["weights"]
    assert weights["loss_norm"] == "sequence_mean"
    assert {key: weights[key] for key in PRESETS[preset] if key != "loss_norm"} == {
        key: value for key, value in PRESETS[preset].items() if key != "loss_norm"
    }


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, "batch"), (False, "off"), ("true", "batch"), ("no", "off"), ("dataset", "dataset"), ("off", "off")],
)
def test_the_scale_of_the_weights_was_a_switch_once_and_is_still_read_as_one(given: Any, meant: str) -> None:
    data = recipe(weights={"preset": "paper", "lambda": 1, "mean_one": given})
    assert parse_recipe(data).weights.mean_one == revive_recipe(data).weights.mean_one == meant
    assert name_scale(data)["weights"]["mean_one"] == meant


def test_another_scale_is_refused_with_those_that_there_are() -> None:
    said = problem_fields(recipe(weights={"preset": "paper", "lambda": 1, "mean_one": "sometimes"}))["weights.mean_one"]
    assert "'batch', 'dataset' or 'off'" in said


BY_MODEL = {"source": "model", "model": "mdl_2"}


@pytest.mark.parametrize(
    ("parts", "field", "says"),
    [
        ({"reward": {"source": "preference"}}, "reward.source", "The draws of the reference have no preference"),
        ({"draws": {"num_draws": 1}}, "draws.num_draws", "takes two of them or more"),
        ({"draws": {"num_draws": 0}}, "draws.num_draws", "takes two of them or more"),
        ({"draws": {"temperature": 0.7}}, "draws.temperature", "every weight would be wrong"),
        ({"draws": {"top_p": 0.9}}, "draws.top_p", "every weight would be wrong"),
        (
            {"weights": {"preset": "draws", "lambda": 1, "weight_form": "posterior"}},
            "weights.weight_form",
            "set weights.weight_form to",
        ),
        ({"online": {"every": 5}}, "online.every", "made for nothing"),
        ({"online": {"every": 5}, "weights": {"lambda": 1, "plans": 4}}, "weights.plans", "where no partner counts"),
        ({"weights": {"lambda": 1, "responses": "all"}}, "weights.responses", "with weights.partition_scope draws"),
        ({"method": "sft", "weights": {"responses": "draws"}}, "weights.responses", "which are made for VAR"),
    ],
)
def test_what_does_not_fit_draws_of_the_reference_is_refused_with_a_sentence(
    parts: dict[str, Any], field: str, says: str
) -> None:
    said = problem_fields(recipe(**{"reward": BY_MODEL, "weights": {"preset": "draws", "lambda": 1}, **parts}))
    assert says in said[field]


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo", "kto", "grpo"])
def test_draws_of_the_reference_are_refused_where_no_weights_are_made(method: str) -> None:
    asked = recipe(method=method, reward=BY_MODEL, weights={"preset": "draws"})
    assert problem_fields(asked) == {
        "weights.partition_scope": f"{method} makes no weights, so draws of the reference would not be made: take method var, "
        "or leave weights.preset and weights.partition_scope out (in a sweep, name the method as a baseline)."
    }
    assert Recipe.model_validate(asked).method == method  # an old run stays readable


@pytest.mark.parametrize(
    "weights",
    [
        {"preset": "draws"},
        {"preset": "reward_weighted", "mean_one": "dataset"},
        {"preset": "within_prompt", "mean_one": "off"},
    ],
)
def test_further_plans_are_refused_where_no_weight_knows_who_met_whom(weights: dict[str, Any]) -> None:
    asked = recipe(reward=BY_MODEL, weights={**weights, "lambda": 1, "plans": 4})
    assert problem_fields(asked) == {
        "weights.plans": "No weight depends on which prompts meet in a batch here, so further plans would change nothing: leave "
        "weights.plans at 1."
    }
    assert Recipe.model_validate(asked).weights.plans == 4
    partners = {"preset": weights["preset"], "lambda": 1, "plans": 4, "mean_one": "batch"}
    assert parse_recipe(recipe(reward=BY_MODEL, weights=partners)).weights.plans == 4
    assert parse_recipe(recipe(reward=BY_MODEL, weights={"preset": "paper", "lambda": 1, "plans": 4})).weights.plans == 4


@pytest.mark.parametrize("method", ["raft", "rloo", "grpo"])
@pytest.mark.parametrize("name", ["length_control", "per_prompt"])
def test_care_that_a_method_takes_none_of_is_refused(method: str, name: str) -> None:
    asked = recipe(method=method, reward={**BY_MODEL, name: True}, weights={})
    said = problem_fields(asked)
    assert list(said) == [f"reward.{name}"]
    assert said[f"reward.{name}"].startswith(f"{method} takes the rewards of fresh responses as the model gives them")
    assert getattr(Recipe.model_validate(asked).reward, name)


def test_caution_about_one_reward_model_is_refused() -> None:
    weights = {"preset": "reward_weighted", "lambda": 1}
    said = problem_fields(recipe(reward={**BY_MODEL, "caution": 3}, weights=weights))
    assert said == {"reward.caution": "There is one reward model, which has no deviation from itself: name a second one as "
                    "reward.second, or leave reward.caution at 1."}  # fmt: skip
    assert parse_recipe(recipe(reward={**BY_MODEL, "second": "mdl_3", "caution": 3}, weights=weights)).reward.caution == 3


@pytest.mark.parametrize("method", ["raft", "rloo", "grpo"])
def test_a_round_before_each_step_is_what_is_not_said_and_nothing_else(method: str) -> None:
    asked = recipe(method=method, reward=BY_MODEL, weights={})
    assert parse_recipe(asked).online.every == parse_recipe({**asked, "online": {"every": None}}).online.every == 1
    assert problem_fields({**asked, "online": {"every": 0}}) == {"online.every": "Must be at least 1, not 0."}


def test_the_preset_of_draws_is_one_choice() -> None:
    chosen = parse_recipe(recipe(reward=BY_MODEL, weights={"preset": "draws", "lambda": 0.5}))
    assert (chosen.weights.weight_form, chosen.weights.partition_scope, chosen.weights.mean_one) == ("ratio", "draws", "dataset")
    assert (chosen.draws.num_draws, chosen.draws.temperature, chosen.draws.top_p) == (16, 1.0, 1.0)
    assert revive_recipe({key: value for key, value in chosen.to_dict().items() if key != "draws"}) == chosen


def test_a_preset_reuses_cross_rewards_when_no_model_can_be_asked() -> None:
    assert parse_recipe(recipe()).weights.cross_reward == "reuse"


def test_asking_for_cross_rewards_without_a_model_is_refused_at_the_field() -> None:
    fields = problem_fields(recipe(weights={"preset": "paper", "lambda": 1, "cross_reward": "score"}))
    assert "reward model" in fields["weights.cross_reward"]


@pytest.mark.parametrize("value", [0, -1, 1e308, math.nan, math.inf, 2**63, "much"])
def test_lambda_must_be_a_positive_finite_number(value: Any) -> None:
    fields = problem_fields(recipe(weights={"preset": "paper", "lambda": value}))
    assert fields["weights.lambda"].startswith("Must be")


def test_an_unknown_preset_names_the_known_ones() -> None:
    fields = problem_fields(recipe(weights={"preset": "best", "lambda": 1}))
    assert "length_normalised" in fields["weights.preset"]


def test_a_misspelt_setting_is_named_by_its_path() -> None:
    fields = problem_fields(recipe(training={"batchsize": 4}))
    assert fields == {"training.batchsize": "There is no setting called training.batchsize; check the spelling."}


def test_lambda_or_a_target_but_not_both_and_not_neither() -> None:
    assert "weights.lambda" in problem_fields(recipe(weights={"preset": "paper"}))
    assert "weights.target_ess" in problem_fields(recipe(weights={"preset": "paper", "lambda": 1, "target_ess": 0.5}))


def test_every_fault_is_listed_and_counted() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(recipe(training={"epochs": 0, "learning_rate": -1}))
    assert [problem["field"] for problem in caught.value.problems] == ["training.epochs", "training.learning_rate"]
    assert "1 more field needs a look" in caught.value.detail


def test_a_reward_model_is_needed_and_allowed_only_for_source_model() -> None:
    assert "reward.model" in problem_fields(recipe(reward={"source": "model"}))
    assert "reward.model" in problem_fields(recipe(reward={"source": "rating", "model": "m"}))


def test_a_micro_batch_cannot_exceed_the_batch() -> None:
    assert "training.micro_batch_size" in problem_fields(recipe(training={"batch_size": 4, "micro_batch_size": 8}))


def test_no_process_is_left_without_a_prompt() -> None:
    assert (
        "4 processes share 2 prompts"
        in problem_fields(recipe(training={"batch_size": 2, "num_processes": 4}))["training.num_processes"]
    )


@pytest.mark.parametrize(
    "held_whole", [{"method": "reward_model"}, {"policy": {"model": "m", "adaptation": "lora", "quantization": "nf4"}}]
)
def test_what_every_device_holds_whole_is_not_sharded(held_whole: dict[str, Any]) -> None:
    fields = problem_fields(recipe(training={"num_processes": 2, "sharding": "full"}, **held_whole))
    assert "set training.sharding to none" in fields["training.sharding"]


def test_every_setting_has_a_help_text_or_is_a_group() -> None:
    schema = Recipe.model_json_schema(by_alias=True)
    assert schema["properties"]["max_examples"]["description"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.0, "weights.lambda must be greater than 0, not 0."),
        ("much", "weights.lambda must be a number, not 'much'."),
        (2e6, "weights.lambda must be at most 1e+06, not 2e+06."),
    ],
)
def test_the_one_sentence_names_the_field_that_the_message_stands_beside(value: Any, sentence: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(recipe(weights={"preset": "paper", "lambda": value}))
    assert caught.value.detail == sentence


def test_a_recipe_that_is_no_object_is_told_so() -> None:
    with pytest.raises(RecipeInvalid, match=r"Must be an object with fields, not 'recipe'\."):
        parse_recipe("recipe")


IDLE = (
    "Swapped labels change nothing here, as the rewards come from a {}: "
    "use noise.reward_std, or take the rewards from the preference."
)


@pytest.mark.parametrize("reward", [{"source": "model", "model": "m"}, {"source": "rating"}], ids=["model", "rating"])
def test_swapped_labels_are_refused_where_they_change_nothing(reward: dict[str, str]) -> None:
    noise = {"label_flip_share": 0.2}
    assert problem_fields(recipe(reward=reward, noise=noise)) == {"noise.label_flip_share": IDLE.format(reward["source"])}
    weights = {"preset": "paper", "lambda": 1, "responses": "chosen"}
    for heard in ({"weights": weights}, {"method": "dpo", "weights": {}}, {"reward": {"source": "preference"}}):
        assert parse_recipe(recipe(**{"reward": reward, "noise": noise, **heard})).noise.label_flip_share == 0.2


def test_a_run_with_idle_label_noise_that_was_made_before_stays_readable() -> None:
    stored = recipe(reward={"source": "model", "model": "m"}, noise={"label_flip_share": 0.2})
    assert Recipe.model_validate(stored).noise.label_flip_share == 0.2


@pytest.mark.parametrize(
    ("method", "adaptation", "proposed"),
    [("var", "full", 1e-5), ("sft", "lora", 1e-4), ("var", "lora", 1e-4), ("dpo", "full", 2e-6), ("dpo", "lora", 2e-5)],
)
def test_a_recipe_that_names_no_learning_rate_takes_its_methods_own(method: str, adaptation: str, proposed: float) -> None:
    asked = recipe(method=method, policy={"model": "m", "adaptation": adaptation})
    assert parse_recipe(asked).training.learning_rate == proposed
    assert parse_recipe({**asked, "training": {"steps": 3}}).training.learning_rate == proposed
    assert parse_recipe({**asked, "training": {"learning_rate": 3e-4}}).training.learning_rate == 3e-4


def test_what_is_no_method_or_no_training_is_told_as_such() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(recipe(method="ppo", training=3))
    assert {problem["field"] for problem in caught.value.problems} == {"method", "training"}


def test_whole_modules_beside_an_adapter_are_no_setting() -> None:
    """A module that is trained whole would be saved apart from what shares its weight."""
    asked = recipe(policy={"model": "m", "adaptation": "lora", "lora": {"modules_to_save": ["embed_tokens"]}})
    with pytest.raises(RecipeInvalid) as caught:
        parse_recipe(asked)
    assert [problem["field"] for problem in caught.value.problems] == ["policy.lora.modules_to_save"]


def test_prompts_and_draws_have_seeds_of_their_own_and_otherwise_that_of_the_split() -> None:
    parsed = parse_recipe(recipe(evaluation={"seed": 3, "prompt_seed": 5}))
    assert (parsed.evaluation.seed_for("prompts"), parsed.evaluation.seed_for("draws")) == (5, 3)
    assert parse_recipe(recipe(evaluation={"draw_seed": 0, "seed": 3})).evaluation.seed_for("draws") == 0


def test_fresh_responses_below_temperature_1_are_refused_and_old_runs_with_them_stay_readable() -> None:
    online = {"every": 2, "temperature": 0.7}
    asked = recipe(reward={"source": "model", "model": "r"}, online=online)
    (message,) = problem_fields(asked).values()
    assert set(problem_fields(asked)) == {"online.temperature"}
    assert message.startswith("At a temperature of 0.7 the policy is trained towards its own likeliest responses")
    assert Recipe.model_validate(asked).online.temperature == 0.7
    assert parse_recipe({**asked, "online": {"temperature": 0.7}}).online.every is None
    assert parse_recipe({**asked, "online": {**online, "temperature": 1.3}}).online.temperature == 1.3


def test_a_stored_recipe_keeps_what_was_done_when_it_was_made() -> None:
    """Of before conversations were held out together, and before there were test sets and number types of reward models."""
    stored = parse_recipe(recipe(policy={"model": "m", "dtype": "bfloat16"})).to_dict()
    assert revive_recipe(stored) == parse_recipe(stored)
    del stored["evaluation"]["split"], stored["reward"]["dtype"], stored["evaluation"]["test_share"]
    revived, launched_again = revive_recipe(stored), parse_recipe(stored)
    assert (revived.evaluation.split, revived.reward.dtype) == ("prompt", "bfloat16")
    assert (launched_again.evaluation.split, launched_again.reward.dtype) == ("conversation", "float32")
    assert (revived.evaluation.test_share, launched_again.evaluation.test_share) == (0, 0.5)
    assert revive_recipe(recipe()).reward.dtype == "float32"


@pytest.mark.parametrize("part", [{"weights": {"lambda": 5e-324}}, {"scoring": {"smallest_lambda": 9e-7}}])
def test_a_lambda_that_no_reward_can_be_divided_by_is_refused_at_the_launch_and_stays_readable(part):
    data = {"dataset": "d", "policy": {"model": "m"}, "reward": {"source": "rating"}, "weights": {"lambda": 1.0}, **part}
    with pytest.raises(RecipeInvalid, match="rewards can't be divided by so little: take 1e-06 or more") as refused:
        parse_recipe(data)
    [(name, inner)] = part.items()
    assert refused.value.problems[0]["field"] == f"{name}.{next(iter(inner))}"
    assert revive_recipe(data).dataset == "d"
