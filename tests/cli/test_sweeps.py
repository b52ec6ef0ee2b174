import json

from app.commands.sweeps import Baselines, verdict_of
from app.domain.training.baselines import BASELINES
from tests.web.test_experiments import judged_recipe
from tests.web.test_experiments import quiet as quiet
from tests.web.test_sweeps import play

SEEDS = {
    "label": "λ 0.3",
    "gain": {"mean": 0.5, "deviation": 0.1, "num": 2},
    "kl": {"mean": 0.6, "deviation": 0.2, "num": 2},
    "test_gain": {"mean": 0.25, "deviation": 0.07, "num": 2},
}


def test_the_verdict_names_what_is_as_good_and_what_was_better_on_the_way() -> None:
    sweep = {
        "variants": [{"label": label} for label in ("λ 0.3", "λ 1", "seed 0", "seed 1")],
        "kl_budget": None,
        "best": {"variant": 0, "step": 12, "kl": 0.4, "reward_gain": 0.3},
        "test_gain": 0.25,
        "seeds": [],
        "rivals": [
            {
                "variants": [1],
                "num_prompts": 32,
                "gain": {"value": 0.02, "low": -0.1, "high": 0.14},
                "told_apart": False,
                "needed_prompts": 900,
            },
            {
                "variants": [2, 3],
                "num_prompts": 32,
                "gain": {"value": 0.4, "low": 0.2, "high": 0.6},
                "told_apart": True,
                "needed_prompts": 12,
            },
        ],
        "earlier": {"variant": 1, "step": 8, "kl": 0.5, "reward_gain": 1.71},
    }
    assert verdict_of(sweep) == [
        "* Best: λ 0.3, step 12: reward gain +0.3 at KL 0.4.",
        "On the test prompts, which chose nothing: +0.25.",
        "Not told apart from λ 1: +0.02 (-0.1 to +0.14) reward on the same 32 test prompts; about 900 would be needed.",
        "Told apart from seed 0, seed 1: +0.4 (+0.2 to +0.6) reward on the same 32 test prompts.",
        "On the way λ 1 was at +1.71, after step 8; to have the best model of a run, set keep.model to best.",
    ]
    assert (
        verdict_of({**sweep, "seeds": [{**SEEDS, "variants": [2, 3]}]})[0]
        == "* Best: λ 0.3, step 12: reward gain +0.3 at KL 0.4."
    )
    over_seeds = {**sweep, "seeds": [{**SEEDS, "variants": [0, 2, 3]}]}
    assert verdict_of(over_seeds)[:2] == [
        "* Best: λ 0.3 on average over 2 of its 3 seeds: reward gain +0.5 ± 0.1 at KL 0.6; in their middle λ 0.3, step 12.",
        "On the test prompts, which chose nothing: +0.25 ± 0.07 from seed to seed.",
    ]
    assert verdict_of({**sweep, "best": None, "rivals": [], "earlier": None}) == []


def test_an_experiment_that_is_followed_ends_with_what_came_out(studio, quiet, told, tmp_path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(judged_recipe(studio)))
    sweep_id = told("experiments", "launch", "online", str(recipe), "--steps", "40", "--seeds", "1", "--private").strip()
    assert studio.client().get(f"/api/v1/sweeps/{sweep_id}").json()["private"]
    for gain in (0.2, 1.2):
        play(studio, (9, 1.0, gain), test=gain)
    said = told("sweeps", "watch", sweep_id)
    assert "\nonline: as expected\nfresh every 5 steps against the data's own: +" in said
    assert "\n* Best: fresh every 5 steps, step 9: " in said


def test_the_option_for_baselines_names_them_all() -> None:
    told = Baselines.__metadata__[0].help  # type: ignore[attr-defined]
    assert [name for name in BASELINES if name not in told] == []
