"""The identity of a scoring: what its scores depend on, and nothing else."""

import hashlib
import json
from typing import Any

import pytest

from app.domain.recipe import Recipe, parse_recipe
from app.domain.scoring import EnsembleCheck, describe_disagreement, describe_foreign, fingerprint, scoring_settings

OTHER: dict[str, Any] = {
    "every": 7, "num_prompts": 9, "num_samples_shown": 3, "max_new_tokens": 64, "temperature": 0.5, "top_p": 0.5,
    "prompt_seed": 5, "draw_seed": 6,
}  # fmt: skip
SPLIT = {"share", "seed", "split"}  # these decide which examples are scored


def identity(**evaluation: Any) -> str:
    recipe = parse_recipe({"dataset": "d", "policy": {"model": "p"}, "weights": {"lambda": 1}, "evaluation": evaluation})
    return fingerprint(scoring_settings(recipe), ["data", "policy", ""])


@pytest.mark.parametrize("name", OTHER)
def test_how_a_run_is_evaluated_is_no_part_of_it(name: str) -> None:
    assert identity(**{name: OTHER[name]}) == identity()


def test_which_examples_are_held_out_is_part_of_it() -> None:
    assert len({identity(), identity(share=0.2), identity(seed=3)}) == 3


def test_no_other_setting_of_an_evaluation_is() -> None:
    recipe = parse_recipe({"dataset": "d", "policy": {"model": "p"}, "weights": {"lambda": 1}})
    assert set(scoring_settings(recipe)["evaluation"]) <= SPLIT


def test_a_scoring_from_when_the_longest_answer_was_part_of_it_is_found() -> None:
    recipe = parse_recipe({"dataset": "d", "policy": {"model": "p"}, "weights": {"lambda": 1}})
    settings = scoring_settings(recipe)
    once = {**settings, "evaluation": {**settings["evaluation"], "max_new_tokens": 128}}
    text = json.dumps([once, ["data"]], sort_keys=True)
    assert fingerprint(settings, ["data"]) == fingerprint(once, ["data"]) == hashlib.sha256(text.encode()).hexdigest()
    once["evaluation"]["max_new_tokens"] = 32
    assert fingerprint(once, ["data"]) != fingerprint(settings, ["data"])


@pytest.mark.parametrize(
    ("gap", "error", "found"), [(-0.29, 0.01, False), (-0.5, 0.2, False), (-0.5, 0.1, True), (0.5, 0.1, True)]
)
def test_data_are_foreign_from_three_tenths_of_a_nat_and_three_standard_errors_on(gap: float, error: float, found: bool) -> None:
    said = describe_foreign(-2.0 + gap, -2.0, gap, error)
    assert (said is not None) == found
    if said is not None:
        assert f"0.50 ± 0.10 {'less' if gap < 0 else 'more'}" in said


def test_of_a_single_prompt_nothing_is_said() -> None:
    assert describe_foreign(-9.0, -1.0, -8.0, None) is None


def test_draws_are_part_of_a_scoring_only_where_the_weights_take_them() -> None:
    by_model = {"dataset": "d", "policy": {"model": "p"}, "reward": {"source": "model", "model": "r"}}

    def settings(**weights: Any) -> dict[str, Any]:
        return scoring_settings(parse_recipe({**by_model, "weights": {"lambda": 1, **weights}, "draws": {"num_draws": 4}}))

    assert "draws" not in settings()
    stored = Recipe.model_validate({**by_model, "method": "dpo", "weights": {"preset": "draws", "lambda": 1}})
    assert "draws" not in scoring_settings(stored)  # a method without weights makes none
    assert settings(preset="draws")["draws"]["num_draws"] == 4


@pytest.mark.parametrize(
    ("correlation", "said"),
    [(0.5, None), (0.49, "correlate by 0.49 on average, and all rank only 60"), (None, "the same reward")],
)
def test_reward_models_that_say_more_of_themselves_than_of_the_responses_are_told(correlation, said):
    found = describe_disagreement(EnsembleCheck(caution=1, correlation=correlation, same_order=0.6, accuracies=[0.6, 0.6]))
    assert (found is None) if said is None else (found is not None and said in found)
    assert describe_disagreement(None) is None
