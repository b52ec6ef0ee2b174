from typing import Any

import pytest

from app.domain.errors import NotFound, RecipeInvalid
from app.domain.experiments import plans
from app.domain.experiments.catalogue import EXPERIMENTS, ask, get_experiment
from app.domain.experiments.plans import ExperimentRequest
from app.domain.sweep import Variant, expand
from app.domain.training.keeping import KeepSettings

RECIPE: dict[str, Any] = {
    "name": "mine",
    "dataset": "data_1",
    "policy": {"model": "model_1"},
    "reward": {"source": "model", "model": "model_2"},
    "weights": {"target_ess": 0.5},
    "training": {"batch_size": 4, "learning_rate": 3e-4, "seed": 7},
}


def variants_of(name: str, recipe: dict[str, Any] | None = None, **asked: int) -> list[Variant]:
    return expand(ask(get_experiment(name), ExperimentRequest(recipe=recipe or RECIPE, **{"steps": 40, "seeds": 1, **asked})))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_makes_as_many_runs_as_it_says_and_each_is_a_recipe_of_its_own(name: str) -> None:
    experiment = EXPERIMENTS[name]
    one, three = variants_of(name), variants_of(name, seeds=3)
    assert len(one) == experiment.num_settings
    assert len(three) == experiment.num_settings * (3 if experiment.is_rewarded else 1)
    assert all(not variant.changes.keys().isdisjoint(experiment.paths) for variant in three)
    assert all(experiment.label(variant.changes) for variant in one)
    assert {variant.recipe.name for variant in one} == {""}


def test_seeds_begin_with_the_recipes_own() -> None:
    seeds = [variant.recipe.training.seed for variant in variants_of("online", seeds=3)]
    assert sorted(set(seeds)) == [7, 8, 9]


def test_all_runs_have_the_steps_that_are_asked_for_but_those_of_other_batch_sizes() -> None:
    for name in ("temperature", "methods", "noise", "online", "overfit"):
        assert {variant.recipe.training.steps for variant in variants_of(name)} == {40}
    seen = {one.recipe.training.batch_size: one.recipe.training for one in variants_of("batch")}
    assert {size: training.steps for size, training in seen.items()} == {2: 80, 4: 40, 8: 20, 16: 10}
    assert {size: training.learning_rate for size, training in seen.items()} == {2: 1.5e-4, 4: 3e-4, 8: 6e-4, 16: 1.2e-3}


def test_each_method_is_run_around_its_own_learning_rate() -> None:
    rates: dict[str, list[float]] = {}
    for variant in variants_of("methods"):
        rates.setdefault(variant.recipe.method, []).append(variant.recipe.training.learning_rate)
    assert rates == {"var": [1e-4, 3e-4, 9e-4], "sft": [1e-4, 3e-4, 9e-4], "dpo": [2e-5, 6e-5, 1.8e-4]}


def test_a_batch_learnt_by_heart_is_one_batch_of_chosen_responses_without_held_out_prompts() -> None:
    (variant,) = variants_of("overfit")
    recipe = variant.recipe
    assert (recipe.max_examples, recipe.weights.responses, recipe.evaluation.share) == (4, "chosen", 0.0)
    assert (recipe.training.schedule, recipe.training.learning_rate) == ("constant", pytest.approx(9e-4))


def test_no_run_ends_before_the_others_and_one_batch_is_learnt_from_the_data_to_the_end() -> None:
    rules = {"patience": 9, "kl_budget": 3.0, "stop_over_budget": True}
    early = {**RECIPE, "evaluation": {"every": 1}, "keep": rules, "online": {"every": 2}}
    for name in ("temperature", "methods", "overfit"):
        assert all(one.recipe.keep == KeepSettings() for one in variants_of(name, early))
    assert {one.recipe.keep.step for one in variants_of("batch", {**RECIPE, "keep": {"step": 5}})} == {None}
    best = {**RECIPE, "keep": {"model": "best", "kl_budget": 3.0}, "online": {"every": 2}}
    assert {one.recipe.keep.kl_budget for one in variants_of("temperature", best)} == {3.0}
    (by_heart,) = variants_of("overfit", best)
    assert (by_heart.recipe.keep, by_heart.recipe.online.every) == (KeepSettings(), None)


def test_noise_is_put_where_the_rewards_come_from() -> None:
    assert [one.recipe.noise.reward_std for one in variants_of("noise")] == [0, 0.5, 1, 2]
    labels = {**RECIPE, "reward": {"source": "preference", "judge": "model_2"}}
    assert [one.recipe.noise.label_flip_share for one in variants_of("noise", labels)] == [0, 0.1, 0.2, 0.4]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "dpo"}, "method"),
        ({"reward": {"source": "preference"}}, "reward.judge"),
        ({"evaluation": {"share": 0}}, "evaluation.share"),
        ({"evaluation": {"num_test_prompts": 0}}, "evaluation.share"),
        ({"training": {"batch_size": 0}}, "training.batch_size"),
    ],
)
def test_what_could_not_be_judged_is_refused_in_a_sentence(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        variants_of("temperature", {**RECIPE, **changes})
    assert caught.value.problems[0]["field"] == field
    assert caught.value.detail.endswith(".")


def test_a_name_that_is_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="overfit, temperature"):
        get_experiment("luck")


def test_noise_is_called_by_what_it_is() -> None:
    rewards, labels = "noise.reward_std", "noise.label_flip_share"
    told = [plans.label_noise(one) for one in ({rewards: 0.0}, {rewards: 0.5}, {labels: 0.0}, {labels: 0.1})]
    assert told == ["no noise", "noise of 0.5 SD", "no label flipped", "10 % of the labels flipped"]
