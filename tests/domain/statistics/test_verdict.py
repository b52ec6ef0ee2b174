"""The verdict says better or worse only where the interval does, and else what it would take."""

from app.domain.statistics.verdict import Verdict, tell_verdict


def figures(stage: str = "test", **values: tuple[float, float, float] | float) -> dict[str, float]:
    """Return metrics; a triple is a value with the ends of its interval."""
    metrics: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            metrics |= dict(zip((f"{stage}/{name}", f"{stage}/{name}_low", f"{stage}/{name}_high"), value, strict=True))
        else:
            metrics[f"{stage}/{name}"] = value
    return metrics


def told(metrics: dict[str, float], stage: str = "test", pairs=()) -> Verdict:
    verdict = tell_verdict(metrics, stage, pairs)
    assert verdict is not None
    return verdict


def test_a_gain_beyond_its_interval_is_better_with_win_rate_and_kl():
    verdict = told(figures(reward_gain=(1.23, 0.9, 1.5), win_rate=(0.71, 0.64, 0.78), kl=2.1, num_prompts=200))
    assert verdict.tone == "good"
    assert verdict.headline == "Better than the reference"
    assert verdict.text == (
        "+1.23 reward (95 % interval +0.900 to +1.50) on 200 test prompts, 71 % of them won (95 % interval 64 % to 78 %), "
        "at a KL of 2.10 nats."
    )


def test_a_loss_beyond_its_interval_is_worse():
    verdict = told(figures(reward_gain=(-0.4, -0.6, -0.2), num_prompts=64))
    assert (verdict.tone, verdict.headline) == ("bad", "Worse than the reference")


def test_an_interval_with_zero_in_it_tells_nothing_apart_and_says_how_many_prompts_would():
    verdict = told(figures(reward_gain=(0.1, -0.096, 0.296), num_prompts=64))
    assert (verdict.tone, verdict.headline) == ("open", "Not told apart from the reference")
    assert "would take about 505 prompts" in verdict.text  # ((1.96 + 0.84) · 0.1 · 8 / 0.1)² + 1.92


def test_the_permutation_test_may_hold_back_what_the_interval_alone_would_say():
    metrics = figures(reward_gain=(1.0, 0.1, 2.0), num_prompts=4)
    assert told(metrics).tone == "good"
    pairs = [(1.0, 0.0), (1.1, 0.0), (0.9, 0.0), (1.0, 0.0)]  # 2 of 16 exchanges are as far from 0: p = 0.125
    assert told(metrics, pairs=pairs).headline == "Not told apart from the reference"
    assert "more than these 4 prompts" not in told(metrics, pairs=pairs).text


def test_a_win_that_length_may_explain_says_so():
    parts = {"reward_gain": (1.0, 0.5, 1.5), "win_rate": (0.7, 0.6, 0.8), "num_prompts": 100}
    assert "length alone may be" in told(figures(**parts, length_win_rate=(0.52, 0.44, 0.6))).text
    assert "length alone" not in told(figures(**parts, length_win_rate=(0.66, 0.58, 0.74))).text


def test_without_a_reward_model_preferences_and_their_margin_are_told():
    verdict = told(figures(preference_accuracy=(0.71, 0.63, 0.78), preference_margin=(2.3, 1.1, 3.4), num_preferences=128))
    assert (verdict.tone, verdict.headline) == ("good", "Tells chosen from rejected")
    assert "Right in 71 % (95 % interval 63 % to 78 %) on 128 test preferences" in verdict.text
    assert "a margin of +2.30 nats (95 % interval +1.10 to +3.40)" in verdict.text
    assert verdict.text.endswith("No reward model judged its answers.")


def test_preferences_no_better_than_guessing_are_called_so():
    verdict = told(figures(preference_accuracy=(0.53, 0.44, 0.62), num_preferences=128))
    assert verdict.headline == "Not told apart from guessing"
    assert "preferences" in verdict.text.partition("would take about")[2]
    assert told(figures(preference_accuracy=(0.3, 0.2, 0.4), num_preferences=99)).headline == "Prefers what was rejected"


def test_a_reward_model_is_told_by_its_pairs():
    verdict = told(figures(pair_accuracy=(0.83, 0.77, 0.88), pair_margin=(1.4, 1.2, 1.6), num_pairs=200))
    assert verdict.headline == "Tells chosen from rejected"
    assert "200 test pairs, by a margin of +1.40 (95 % interval" in verdict.text
    assert "No reward model" not in verdict.text


def test_so_far_it_is_told_of_the_validation_prompts_and_without_an_interval_nothing_is_told_apart():
    verdict = told(figures("eval", reward_gain=1.5, num_prompts=16), "eval")
    assert (verdict.tone, verdict.text) == ("open", "+1.50 reward on 16 validation prompts.")


def test_a_loss_alone_compares_nothing_and_nothing_at_all_has_no_verdict():
    assert "held-out loss is 1.20" in told(figures(loss=1.2)).text
    assert tell_verdict({}, "test") is None
    assert tell_verdict({"eval/reward_gain": None}, "eval") is None
