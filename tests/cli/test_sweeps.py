from app.commands.sweeps import verdict_of

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
