from app.commands.sweeps import verdict_of


def test_the_verdict_names_what_is_as_good_and_what_was_better_on_the_way() -> None:
    sweep = {
        "variants": [{"label": "λ 0.3"}, {"label": "λ 1"}],
        "kl_budget": None,
        "best": {"variant": 0, "step": 12, "kl": 0.4, "reward_gain": 0.3},
        "not_told_apart": [1],
        "earlier": {"variant": 1, "step": 8, "kl": 0.5, "reward_gain": 1.71},
    }
    assert verdict_of(sweep) == [
        "* Best: λ 0.3, step 12: reward gain +0.3 at KL 0.4.",
        "Not told apart from λ 1: the win rates' intervals overlap or the gains are equal.",
        "On the way λ 1 was at +1.71, after step 8; the runs' models are those of their last steps.",
    ]
    assert verdict_of({**sweep, "best": None, "not_told_apart": [], "earlier": None}) == []
