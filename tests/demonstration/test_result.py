import io

import pytest
from rich.console import Console

from app.demonstration.result import AnswerPair, Result, choose_pairs, show, verdict


def result_of(gains: list[float], **more) -> Result:
    """Base rewards −1 and 1 in turn (deviation about 1), each risen by its gain."""
    answers = [
        AnswerPair(f"Prompt {k}.", "Base.", "Aligned.", base, base + gain, 0.0, 1.0)
        for k, gain in enumerate(gains)
        for base in [(-1.0) ** k]
    ]
    return Result(answers, more.get("metrics", {}), more.get("findings", []))


def test_a_rise_of_one_deviation_on_enough_prompts_with_enough_wins_is_clearly_better():
    result = result_of([1.2] * 100)
    assert result.deviation == pytest.approx(1.0, abs=0.01)
    assert result.gain == pytest.approx(1.2, abs=0.02)
    assert result.missed() == []
    assert verdict(result).startswith("Clearly better: the mean reward rose by 1.19 standard deviations")


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        ([0.5] * 100, "the mean reward rose by 0.50 standard deviations of the base's rewards, not by 1"),
        ([3.0] * 70 + [-1.0] * 30, "the aligned policy wins 70.0 % of the prompts, not 75 %"),
        ([1.2] * 99, "only 99 test prompts were answered, 100 are needed"),
    ],
)
def test_what_was_missed_is_said_in_a_sentence(gains, sentence):
    assert verdict(result_of(gains)) == f"Not clearly better: {sentence}."


def test_a_tie_counts_half():
    assert result_of([1.0, 0.0, 0.0, -1.0]).win_rate == 0.5


def test_rewards_that_are_all_equal_give_no_division_by_zero():
    answers = [AnswerPair("Prompt.", "Same.", "Same.", 1.0, 1.0, 2.0, 2.0)] * 100
    result = Result(answers, {}, [])
    assert result.gain == result.score_gain == 0


def test_the_pairs_shown_are_the_typical_the_best_and_the_worst():
    chosen = choose_pairs(result_of([0.5, -2.0, 9.0, 1.0, 0.7]).answers)
    assert [title for title, _ in chosen] == [
        "A typical gain (+0.7 reward)", "The largest gain (+9.0 reward)", "The largest loss (-2.0 reward)",
    ]  # fmt: skip


def test_the_page_of_the_terminal_holds_every_figure_and_finding():
    keys = (
        "test/length_reference",
        "test/length_policy",
        "test/kl",
        "test/kl_low",
        "test/kl_high",
        "weight/ess_share",
        "weight/spearman_length",
    )
    finding = {"title": "Weights follow length", "evidence": "ρ = 0.8.", "step": 3}
    result = result_of(
        [1.2] * 120, metrics=dict(zip(keys, (50.0, 41.5, 3.25, 2.5, 4.125, 0.29, -0.09), strict=True)), findings=[finding]
    )
    console = Console(file=io.StringIO(), width=120)
    show(result, console)
    text = console.file.getvalue()
    for expected in (
        "120 test prompts, read once", "mean reward", "0.00", "1.20", "+1.19 sd of the base", "mean true score", "100.0 %",
        "96.9 % to 100.0 %", "50.0", "41.5", "3.25", "2.50 to 4.12", "gain in rewards (95 % interval)", "0.29", "-0.09",
        "Finding: Weights follow length (first at step 3). ρ = 0.8.",
        "A typical gain", "Prompt 0.", "Aligned.",
    ):  # fmt: skip
        assert expected in text
