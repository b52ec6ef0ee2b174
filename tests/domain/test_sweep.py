from typing import Any

import pytest

from app.domain.errors import RecipeInvalid
from app.domain.recipe import Recipe, parse_recipe
from app.domain.scoring import scoring_settings
from app.domain.sweep import SweepState, Variant, expand, parse_request, state_of

RECIPE: dict[str, Any] = {
    "dataset": "data_1",
    "policy": {"model": "model_1"},
    "reward": {"source": "model", "model": "model_2"},
    "weights": {"lambda": 0.5},
}


def variants_of(recipe: dict[str, Any] | None = None, **parts: Any) -> list[Variant]:
    return expand(parse_request({"recipe": RECIPE if recipe is None else recipe, **parts}))


def faults_of(recipe: dict[str, Any] | None = None, **parts: Any) -> list[dict[str, Any]]:
    with pytest.raises(RecipeInvalid) as caught:
        variants_of(recipe, **parts)
    assert caught.value.detail.endswith((".", ")"))
    return caught.value.problems


def labels_of(variants: list[Variant]) -> list[str]:
    return [variant.label for variant in variants]


def test_the_grid_comes_first_and_the_baselines_behind_it() -> None:
    variants = variants_of(**{"lambda": [0.1, 0.30], "fields": {"training.batch_size": [2, 8]}, "baselines": ["dpo", "sft_all"]})
    assert labels_of(variants) == [
        "λ 0.1, batch_size 2", "λ 0.1, batch_size 8", "λ 0.3, batch_size 2", "λ 0.3, batch_size 8", "DPO", "SFT on all",
    ]  # fmt: skip
    assert [(one.recipe.weights.lambda_, one.recipe.training.batch_size) for one in variants[:4]] == [
        (0.1, 2), (0.1, 8), (0.3, 2), (0.3, 8),
    ]  # fmt: skip
    assert [one.recipe.method for one in variants[3:]] == ["var", "dpo", "sft"]
    assert variants[1].changes == {"weights.lambda": 0.1, "training.batch_size": 8}


def test_var_beside_its_baselines_is_a_sweep_of_the_recipe_itself() -> None:
    variants = variants_of(baselines=["sft_chosen", "sft_all", "dpo", "reward_weighted"])
    assert labels_of(variants) == ["VAR, λ 0.5", "SFT on chosen", "SFT on all", "DPO", "Reward-weighted, no π_ref"]
    assert [one.recipe.weights.responses for one in variants[1:3]] == ["chosen", "both"]
    assert variants[4].recipe.weights.weight_form == "reward"
    assert variants[4].recipe.weights.lambda_ == 0.5


def test_a_baseline_on_fresh_responses_leaves_out_what_is_done_to_rewards_of_scored_data() -> None:
    care = {"second": "model_3", "length_control": True, "per_prompt": True}
    recipe = {**RECIPE, "reward": {**RECIPE["reward"], **care}, "weights": {"preset": "reward_weighted", "lambda": 0.5}}
    var, grpo = variants_of(recipe, baselines=["grpo"])
    assert (var.recipe.reward.second, var.recipe.reward.length_control, var.recipe.reward.per_prompt) == ("model_3", True, True)
    assert (grpo.recipe.reward.second, grpo.recipe.reward.length_control, grpo.recipe.reward.per_prompt) == (None, False, False)


def test_all_variants_share_data_seeds_held_out_prompts_and_scores() -> None:
    base = {**RECIPE, "training": {"seed": 7}, "evaluation": {"seed": 3, "num_prompts": 9}}
    grid = {"lambda": [0.3, 0.1, 1.0], "baselines": ["dpo", "sft_chosen", "reward_weighted"]}
    variants = variants_of(base, **grid)
    assert len({str(scoring_settings(one.recipe)) for one in variants}) == 1
    assert {str(one.recipe.evaluation) for one in variants} == {str(variants[0].recipe.evaluation)}
    assert {one.recipe.scoring.smallest_lambda for one in variants} == {0.1}


def test_a_recipe_with_a_target_or_without_a_temperature_takes_the_grids() -> None:
    for weights in ({}, {"target_ess": 0.5}, None):
        variants = variants_of({**RECIPE, "weights": weights}, **{"lambda": [0.1, 0.2], "baselines": ["reward_weighted"]})
        assert [one.recipe.weights.lambda_ for one in variants[:2]] == [0.1, 0.2]
    assert variants[2].recipe.weights.lambda_ == 0.1  # it has none of its own, so the grid's first
    targets = variants_of(fields={"weights.target_ess": [0.3, 0.6]})
    assert [(one.recipe.weights.lambda_, one.recipe.weights.target_ess) for one in targets] == [(None, 0.3), (None, 0.6)]


@pytest.mark.parametrize("source", [{"source": "model", "model": "model_2"}, {"source": "preference"}])
def test_presets_can_be_swept_over_a_recipe_that_is_already_resolved(source: dict[str, str]) -> None:
    resolved = parse_recipe({**RECIPE, "reward": source, "weights": {"lambda": 0.5, "loss_norm": "sequence_mean"}}).to_dict()
    paper, within = variants_of(resolved, fields={"weights.preset": ["paper", "within_prompt"]})
    assert (paper.label, within.label) == ("paper", "within_prompt")
    assert (paper.recipe.weights.logprob_norm, within.recipe.weights.partition_scope) == ("sum", "prompt")
    assert {one.recipe.weights.loss_norm for one in (paper, within)} == {"sequence_mean"}  # a choice of its own stays


def test_label_noise_is_a_field_like_any_other() -> None:
    variants = variants_of({**RECIPE, "reward": {"source": "preference"}}, fields={"noise.label_flip_share": [0, 0.1, 0.2, 0.4]})
    assert [one.recipe.noise.label_flip_share for one in variants] == [0, 0.1, 0.2, 0.4]
    assert variants[1].label == "label_flip_share 0.1"


def test_a_fault_of_one_variant_names_that_variant_and_its_field() -> None:
    assert faults_of(fields={"training.batch_size": [2, 0], "noise.label_flip_share": [0, 0.9]}) == [
        {"field": "noise.label_flip_share", "message": "batch_size 2, label_flip_share 0.9: Must be at most 0.5, not 0.9.",
         "variant": "batch_size 2, label_flip_share 0.9"},
        {"field": "training.batch_size", "message": "batch_size 0, label_flip_share 0: Must be at least 1, not 0.",
         "variant": "batch_size 0, label_flip_share 0"},
        {"field": "noise.label_flip_share", "message": "batch_size 0, label_flip_share 0.9: Must be at most 0.5, not 0.9.",
         "variant": "batch_size 0, label_flip_share 0.9"},
        {"field": "training.batch_size", "message": "batch_size 0, label_flip_share 0.9: Must be at least 1, not 0.",
         "variant": "batch_size 0, label_flip_share 0.9"},
    ]  # fmt: skip


def test_a_fault_of_all_variants_is_said_once() -> None:
    (problem,) = faults_of({**RECIPE, "training": {"epochs": -1}}, **{"lambda": [0.1, 0.2], "baselines": ["dpo"]})
    assert problem == {"field": "training.epochs", "message": "Must be greater than 0, not -1."}


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ({"lambda": [0.1, 0]}, "lambda.1", "Must be greater than 0, not 0."),
        ({"lambda": [0.1, -3]}, "lambda.1", "Must be greater than 0"),
        ({"lambda": [float("nan")]}, "lambda.0", "Must be"),
        ({"lambda": ["warm"]}, "lambda.0", "Must be a number"),
        ({"lambda": [0.1], "fields": {"weights.lambda": [0.2]}}, "fields.weights.lambda", "twice"),
        ({"lambda": [0.1, 0.1]}, "weights.lambda", "stands here twice"),
        ({"fields": {"training.batch_size": [2, "2"]}}, "training.batch_size", "stands here twice"),
        (
            {"recipe": {**RECIPE, "method": "dpo", "weights": {}}, "baselines": ["dpo"]},
            "baselines", "is the same run as “the recipe itself”",
        ),
        ({"baselines": ["dpo", "dpo"]}, "baselines", "stands here twice"),
        ({"baselines": ["ppo"]}, "baselines", "There is no baseline 'ppo'; there are sft_chosen"),
        ({"fields": {"training.bach_size": [2]}}, "training.bach_size", "no setting called training.bach_size"),
        ({"fields": {"name": ["a", "b"]}}, "fields.name", "names its runs itself"),
        ({"fields": {"training.batch_size": []}}, "fields.training.batch_size", "Must not be empty"),
        ({"fields": {"training": [3]}}, "training", "an object with fields"),
        ({"fields": {"dataset.name": [3]}}, "dataset.name", "dataset holds a single value"),
        ({"recipe": "base.yaml"}, "recipe", "an object with fields"),
        ({"lambda": list(range(1, 42))}, "lambda", "40 entries"),
        ({"lambda": list(range(1, 33)), "fields": {"training.batch_size": [1, 2, 3]}}, "fields", "at most 64"),
        ({}, "lambda", "A sweep compares several runs: give values of λ"),
        ({"runs": 3}, "runs", "no setting called runs"),
    ],
)  # fmt: skip
def test_what_can_not_be_a_sweep_is_refused_with_its_field(parts: dict[str, Any], field: str, words: str) -> None:
    problems = faults_of(**parts)
    assert problems[0]["field"] == field
    assert words in problems[0]["message"]


def test_more_variants_come_beside_those_there_are_and_serve_the_smallest_lambda() -> None:
    first = variants_of(**{"lambda": [0.1, 0.3], "baselines": ["dpo"]})
    request = parse_request({"recipe": RECIPE, "lambda": [0.3, 0.05, 1], "baselines": ["dpo", "sft_all"]})
    more = expand(request, beside=first)
    assert labels_of(more) == ["λ 0.05", "λ 1", "SFT on all"]
    assert {one.recipe.scoring.smallest_lambda for one in more} == {0.05}
    many = parse_request({"recipe": RECIPE, "lambda": [float(n) for n in range(2, 40)]})
    with pytest.raises(RecipeInvalid, match="at most 64"):
        expand(many, beside=[Variant(label=str(n), changes={}, recipe=first[0].recipe) for n in range(40)])


@pytest.mark.parametrize(
    ("counts", "stopped", "state"),
    [
        ({"queued": 3}, False, SweepState.QUEUED),
        ({"queued": 2, "succeeded": 1}, False, SweepState.RUNNING),
        ({"paused": 2, "succeeded": 1}, False, SweepState.PAUSED),
        ({"paused": 2, "queued": 1}, False, SweepState.RUNNING),
        ({"running": 1, "failed": 2}, True, SweepState.RUNNING),
        ({"succeeded": 3}, True, SweepState.SUCCEEDED),
        ({"succeeded": 1, "cancelled": 2}, True, SweepState.STOPPED),
        ({"succeeded": 2, "failed": 1}, False, SweepState.FAILED),
        ({"succeeded": 2}, False, SweepState.INCOMPLETE),
        ({}, False, SweepState.INCOMPLETE),
    ],
)
def test_the_state_follows_from_the_states_of_the_runs(counts: dict[str, int], stopped: bool, state: SweepState) -> None:
    assert state_of(counts, 3, stopped=stopped) is state
    assert state.final == (state not in ("queued", "paused", "running"))


def test_a_variant_is_kept_as_plain_data() -> None:
    (variant,) = variants_of(**{"lambda": [0.1]})
    kept = variant.to_dict()
    assert kept["recipe"]["weights"]["lambda"] == 0.1
    assert Recipe.model_validate(kept["recipe"]) == variant.recipe
    assert Variant.model_validate(kept) == variant


@pytest.mark.parametrize(
    ("training", "adaptation", "rates"),
    [
        ({}, "full", {"VAR, λ 0.3": 1e-5, "SFT on chosen": 1e-5, "DPO": 2e-6}),
        ({}, "lora", {"VAR, λ 0.3": 1e-4, "SFT on chosen": 1e-4, "DPO": 2e-5}),
        ({"learning_rate": 1e-3}, "full", {"VAR, λ 0.3": 1e-3, "SFT on chosen": 1e-3, "DPO": 2e-4}),
    ],
)
def test_every_baseline_has_a_learning_rate_of_its_own(
    training: dict[str, float], adaptation: str, rates: dict[str, float]
) -> None:
    base = {**RECIPE, "training": training, "policy": {"model": "m", "adaptation": adaptation}, "weights": {"lambda": 0.3}}
    variants = variants_of(base, baselines=["sft_chosen", "dpo"])
    assert {variant.label: variant.recipe.training.learning_rate for variant in variants} == rates


def test_settings_that_change_together_are_one_axis_of_the_grid() -> None:
    pairs = [
        {"training.batch_size": 2, "training.learning_rate": 1e-5},
        {"training.batch_size": 8, "training.learning_rate": 4e-5},
    ]
    variants = variants_of(combinations=pairs, **{"lambda": [0.1, 0.3]})
    assert labels_of(variants) == [
        "batch_size 2, learning_rate 1e-05, λ 0.1", "batch_size 2, learning_rate 1e-05, λ 0.3",
        "batch_size 8, learning_rate 4e-05, λ 0.1", "batch_size 8, learning_rate 4e-05, λ 0.3",
    ]  # fmt: skip
    assert [(one.recipe.training.batch_size, one.recipe.training.learning_rate) for one in variants[1:3]] == [
        (2, 1e-5),
        (8, 4e-5),
    ]


def test_a_combination_may_name_another_method_with_settings_of_its_own() -> None:
    var, dpo = variants_of(combinations=[{"training.learning_rate": 1e-4}, {"baseline": "dpo", "training.learning_rate": 3e-6}])
    assert (var.label, dpo.label) == ("VAR, learning_rate 0.0001", "DPO, learning_rate 3e-06")
    assert (dpo.recipe.method, dpo.recipe.training.learning_rate) == ("dpo", 3e-6)


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ({"combinations": [{"training.batch_size": 2}], "fields": {"training.batch_size": [4]}}, "combinations", "given twice"),
        ({"combinations": [{"weights.lambda": 1}], "lambda": [0.1]}, "combinations", "given twice"),
        ({"combinations": [{"baseline": "ppo"}]}, "combinations.0.baseline", "no baseline 'ppo'"),
        ({"combinations": [{"name": "x"}]}, "combinations.0.name", "leave the name out"),
        ({"combinations": [{}]}, "combinations.0", ""),
        ({"combinations": [{"training.batch_size": 2}] * 2}, "training.batch_size", "stands here twice"),
    ],
)
def test_combinations_that_make_no_sense_are_refused_where_they_stand(parts: dict[str, Any], field: str, words: str) -> None:
    (problem,) = faults_of(**parts)
    assert problem["field"] == field
    assert words in problem["message"]
