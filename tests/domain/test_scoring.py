"""The identity of a scoring: what its scores depend on, and nothing else."""

import hashlib
import json
from typing import Any

import pytest

from app.domain.recipe import parse_recipe
from app.domain.scoring import fingerprint, scoring_settings

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
