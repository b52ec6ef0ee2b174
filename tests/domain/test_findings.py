"""Each signature is raised by what it names, with the measured numbers, and by nothing short of it."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.events import FindingRaised
from app.domain.findings import (
    diagnose_data,
    diagnose_step,
    find_gradient_clipped,
    find_unfinished_answers,
    mean_metrics,
    raise_finding,
    wilson_interval,
)
from app.domain.recipe import Recipe
from app.domain.signatures import SIGNATURES
from app.domain.statistics.resolution import ENOUGH, find_small_held_out

HEALTHY = {
    "loss": 2.1, "grad_norm": 0.8, "weight/mean": 1.0, "weight/std": 0.7, "weight/ess": 9.0, "weight/ess_share": 0.56,
    "weight/share_above": 0.1, "weight/spearman_length": -0.2, "weight/spearman_reward": 0.8, "weight/largest_exponent": 7.0,
    "reward/std": 1.1,
}  # fmt: skip


def names(findings: list[FindingRaised]) -> list[str]:
    return [finding.name for finding in findings]


def test_healthy_steps_raise_nothing() -> None:
    assert diagnose_step(HEALTHY) == []
    assert diagnose_step(HEALTHY, recent=[HEALTHY] * 30) == []
    assert diagnose_step({}) == []


@pytest.mark.parametrize(
    ("name", "metrics", "evidence"),
    [
        ("flat_rewards", {"reward/std": 0.0002}, "0.0002"),
        ("overflow_risk", {"weight/largest_exponent": 123.4}, "123"),
        ("weight_collapse", {"weight/ess_share": 0.11, "weight/ess": 1.76}, "0.11 of the batch (1.8 responses)"),
        ("weight_collapse", {"weight/ess_share": 0.1996}, "is 0.1996 of the batch"),
        ("plain_sft", {"weight/share_above": 0.96}, "96 %"),
        ("plain_sft", {"weight/std": 0.0004}, "0.0004"),
        ("length_driven", {"weight/spearman_length": -0.83, "weight/spearman_reward": 0.12}, "-0.83"),
        ("length_driven", {"weight/spearman_length": 0.6, "weight/spearman_reward": -0.1}, "longer"),
        ("divergence", {"loss": math.nan}, "loss"),
        ("divergence", {"loss": None}, "loss"),
        ("divergence", {"grad_norm": math.inf}, "gradient norm"),
    ],
)
def test_a_degenerate_step_raises_its_finding_with_its_numbers(name: str, metrics: dict[str, float], evidence: str) -> None:
    (finding,) = diagnose_step({**HEALTHY, **metrics}, step=7)
    assert finding.name == name
    assert finding.step == 7
    assert evidence in finding.evidence
    assert finding.evidence.endswith(".")


@pytest.mark.parametrize(
    "metrics",
    [
        {"reward/std": 0.001},
        {"weight/largest_exponent": 80.0},
        {"weight/ess_share": 0.2},
        {"weight/share_above": 0.9},
        {"weight/spearman_length": -0.5, "weight/spearman_reward": 0.0},
        {"weight/spearman_length": -0.7, "weight/spearman_reward": 0.75},
        {"weight/std": None, "weight/ess_share": None, "weight/spearman_length": None, "reward/std": None},
    ],
    ids=str,
)
def test_at_the_threshold_nothing_is_raised(metrics: dict[str, float]) -> None:
    assert diagnose_step({**HEALTHY, **metrics}) == []


def test_small_weights_that_differ_are_not_plain_fine_tuning() -> None:
    """A batch of unscaled weights around 1e-5 has a tiny spread without being uniform."""
    assert diagnose_step({**HEALTHY, "weight/mean": 1e-5, "weight/std": 2e-5}) == []
    assert names(diagnose_step({**HEALTHY, "weight/mean": 1e-5, "weight/std": 1e-9})) == ["plain_sft"]


def test_a_last_batch_of_one_response_is_not_held_against_the_run() -> None:
    lone = {"weight/mean": 1.0, "weight/std": 0.0, "weight/share_above": 1.0, "weight/ess": 1.0, "weight/ess_share": 1.0}
    assert diagnose_step({**lone, "reward/std": 0.0}) == []


def test_one_noisy_batch_raises_nothing_when_the_recent_ones_were_healthy() -> None:
    noisy = {**HEALTHY, "weight/spearman_length": -0.9, "weight/spearman_reward": 0.1}
    assert names(diagnose_step(noisy)) == ["length_driven"]
    assert diagnose_step(noisy, recent=[HEALTHY] * 5) == []
    assert names(diagnose_step(noisy, recent=[HEALTHY] * 5 + [noisy] * 19)) == ["length_driven"]
    assert diagnose_step(HEALTHY, recent=[noisy] * 500 + [HEALTHY] * 19) == []


def test_an_explosion_is_measured_against_the_recent_median() -> None:
    recent = [{**HEALTHY, "grad_norm": 0.5 + 0.1 * (k % 5)} for k in range(20)]
    assert diagnose_step({**HEALTHY, "grad_norm": 60.0}, recent=recent) == []
    (finding,) = diagnose_step({**HEALTHY, "grad_norm": 90.0}, recent=recent)
    assert (finding.name, finding.severity) == ("divergence", "error")
    assert "90" in finding.evidence
    assert diagnose_step({**HEALTHY, "grad_norm": 90.0}, recent=recent[:9]) == []


def test_a_heavier_batch_is_no_explosion() -> None:
    recent = [{**HEALTHY, "weight/mean": 1e-4, "loss": 2e-4, "weight/std": 1e-4}] * 20
    assert "divergence" not in names(diagnose_step({**HEALTHY, "weight/mean": 0.5, "loss": 1.0}, recent=recent))


def test_means_skip_what_is_missing_or_not_finite() -> None:
    assert mean_metrics([{"a": 1.0, "b": None}, {"a": 3.0, "b": math.nan}, {"c": 5.0}]) == {"a": 2.0, "c": 5.0}


# Data


def test_a_good_data_set_raises_nothing() -> None:
    chance = random.Random(0)
    pairs = [(chance.gauss(1, 1), chance.gauss(0, 1)) for _ in range(100)]
    rewards = [reward for pair in pairs for reward in pair]
    batches = [([0, 0, 1, 1], ["a", "b", "c", "d"])] * 3
    assert diagnose_data(rewards=rewards, pairs=pairs, lambda_=0.5, batches=batches, num_pairs=100) == []
    assert diagnose_data() == []


def test_rewards_without_spread_are_flat() -> None:
    (finding,) = diagnose_data(rewards=[0.5, 0.5, 0.5001])
    assert finding.name == "flat_rewards"
    assert "4.7e-05" in finding.evidence


def test_a_gap_lost_in_its_noise_is_flat() -> None:
    """Gaps 1, −1, 1, −1 … have mean 0; gaps 2, −1, 2, −1 … mean .5 and standard error 1.52/√20 = .34."""
    zero = [(1.0, 0.0), (0.0, 1.0)] * 10
    assert names(diagnose_data(pairs=zero)) == ["flat_rewards"]
    (finding,) = diagnose_data(pairs=[(2.0, 0.0), (0.0, 1.0)] * 10)
    assert "0.5 over 20 pairs" in finding.evidence
    assert "0.34 each" in finding.evidence
    assert diagnose_data(pairs=[(2.0, 0.0), (0.0, 1.0)] * 20) == []
    assert diagnose_data(pairs=zero[:4]) == []  # too few to say


def test_preference_labels_as_rewards_are_not_flat() -> None:
    assert diagnose_data(rewards=[1.0, -1.0] * 10, pairs=[(1.0, -1.0)] * 10, lambda_=1.0) == []


def test_rewards_against_the_labels_are_inverted() -> None:
    pairs = [(0.0, 1.0)] * 70 + [(1.0, 0.0)] * 30 + [(1.0, 1.0)] * 50
    (finding,) = diagnose_data(pairs=pairs)
    assert finding.name == "inverted_rewards"
    assert "30 of 100 pairs (30 %; 95 % interval 22 % to 40 %)" in finding.evidence
    assert "inverted_rewards" not in names(diagnose_data(pairs=[(0.0, 1.0)] * 6 + [(1.0, 0.0)] * 4))


def test_an_exponent_beyond_the_limit_risks_overflow() -> None:
    assert names(diagnose_data(rewards=[9.0, -1.0], lambda_=0.1)) == ["overflow_risk"]
    assert diagnose_data(rewards=[8.0, -1.0], lambda_=0.1) == []
    assert diagnose_data(rewards=[900.0, -100.0], lambda_=0.1, zscore=True) == []


def test_batches_of_copies_or_of_one_prompt_have_low_diversity() -> None:
    copies = ([0, 1, 2, 3], ["a", "a", "a", "b"])
    one_prompt = ([0, 0, 0, 1], ["a", "b", "c", "d"])
    fine = ([0, 0, 1, 1], ["a", "a", "b", "c"])
    (finding,) = diagnose_data(batches=[copies, fine, one_prompt, ([], [])])
    assert finding.name == "low_diversity"
    assert "2 of 4 batches" in finding.evidence
    assert "75 %" in finding.evidence


def test_a_last_batch_of_one_prompt_is_not_held_against_a_plan() -> None:
    fine, last = ([0, 0, 1, 1], ["a", "b", "c", "d"]), ([2, 2], ["e", "f"])
    assert diagnose_data(batches=[fine, fine, last]) == []
    assert names(diagnose_data(batches=[last])) == ["low_diversity"]
    assert names(diagnose_data(batches=[last, fine, last])) == ["low_diversity"]


def test_pairs_equal_after_truncation_are_counted() -> None:
    (finding,) = diagnose_data(num_pairs=400, num_equal_pairs=3)
    assert finding.name == "truncated_pairs"
    assert "3 of 400 pairs (0.8 %)" in finding.evidence


def test_a_run_without_held_out_prompts_says_so_unless_that_was_wanted() -> None:
    (finding,) = diagnose_data(num_train=8, num_held_out=0, held_out_share=0.1)
    assert (finding.name, finding.severity) == ("nothing_held_out", "warning")
    assert "None of 8 examples" in finding.evidence
    assert diagnose_data(num_train=8, num_held_out=0, held_out_share=0.0) == []
    assert diagnose_data(num_train=8, num_held_out=1, held_out_share=0.1) == []


def test_cut_texts_are_told_of_beyond_a_twentieth_of_them() -> None:
    (finding,) = diagnose_data(cut_prompts=(1, 100), cut_responses=(12, 200))
    assert (finding.name, finding.severity) == ("truncated", "warning")
    assert finding.evidence == "6 % of the responses (12 of 200) are longer than their limit."
    (finding,) = diagnose_data(cut_prompts=(6, 100), cut_responses=(200, 200))
    assert "6 % of the prompts (6 of 100) and 100 % of the responses (200 of 200)" in finding.evidence
    assert diagnose_data(cut_prompts=(5, 100), cut_responses=(10, 200)) == []


def test_rows_that_are_left_out_are_told_of_beyond_a_twentieth_of_them() -> None:
    (finding,) = diagnose_data(left_out=(6, 100, "without a rating: 4 (rows 1, 2, 3, 4)"))
    assert (finding.name, finding.severity) == ("rows_left_out", "warning")
    assert finding.evidence == "6 of 100 rows (6 %) are left out; without a rating: 4 (rows 1, 2, 3, 4)."
    assert diagnose_data(left_out=(5, 100, "without a rating: 5 (rows 1, 2, 3, 4, 5)")) == []


def test_answers_without_an_end_are_told_of_beyond_a_fifth_of_them() -> None:
    assert find_unfinished_answers(2, 10) is None
    assert find_unfinished_answers(0, 0) is None
    assert find_unfinished_answers(3, 10) == "3 of 10 answers (30 %) reached evaluation.max_new_tokens without an end."
    assert raise_finding("unfinished_answers", "3 of 10", 5).severity == "warning"


def test_a_test_set_is_small_where_its_interval_is_wider_than_what_it_shall_show() -> None:
    figures = {"test/num_prompts": 40.0, "test/win_rate_low": 0.45, "test/win_rate_high": 0.74}
    assert find_small_held_out(figures) == (
        "On 40 test prompts the 95 % interval of the win rate is 45 % to 74 %, wider than 10 % on either side; "
        "97 are always enough."
    )
    assert find_small_held_out({**figures, "test/win_rate_high": 0.65}) is None
    preferences = {"test/num_preferences": 8.0, "test/preference_accuracy_low": 0.3, "test/preference_accuracy_high": 0.8}
    assert "On 8 test prompts the 95 % interval of the preference accuracy" in (find_small_held_out(preferences) or "")
    assert find_small_held_out({**preferences, **figures, "test/win_rate_high": 0.65}) is None  # what judges counts
    assert find_small_held_out({}) is None
    num = ENOUGH
    low, high = wilson_interval(num / 2, num)
    assert (high - low) / 2 <= 0.1


def test_fresh_responses_that_are_all_alike_are_a_collapse() -> None:
    assert names(diagnose_step({**HEALTHY, "online/distinct_share": 0.25, "online/ess_share": 1.0})) == []
    (finding,) = diagnose_step({**HEALTHY, "online/distinct_share": 0.1, "online/ess_share": 1.0})
    assert finding.name == "online_collapse"
    assert finding.evidence == "Only 0.10 of a prompt's fresh responses differ from its others, below 0.2."


def test_a_gradient_that_is_clipped_in_most_steps_is_told_with_what_it_does_to_weights_of_their_own_size() -> None:
    assert find_gradient_clipped([2.0] * 9, 1.0) is None  # too few steps to say
    assert find_gradient_clipped([2.0, 0.5] * 10, 1.0) is None
    assert find_gradient_clipped([2.0] * 40, 0.0) is None  # clipping is off
    assert find_gradient_clipped([0.5] * 30 + [2.0] * 11 + [0.5] * 9, 1.0) == (
        "In 11 of the last 20 steps the gradient norm was above 1; its median is 2."
    )
    told = find_gradient_clipped([2.0] * 20, 1.0, rescaled=False)
    assert told is not None
    assert "With weights.mean_one off" in told


def test_groups_of_equal_rewards_are_told_when_they_are_most() -> None:
    assert diagnose_step({"loss": 1.0, "grad_norm": 1.0, "group/flat_share": 0.5}) == []
    (finding,) = diagnose_step({"loss": 1.0, "grad_norm": 1.0, "group/flat_share": 0.75})
    assert finding.name == "flat_groups"
    assert finding.evidence == "The fresh responses to 75 % of the prompts all have the same reward."


# Signatures and intervals


def test_every_signature_is_raised_by_some_test_here_and_names_a_setting_that_exists() -> None:
    raised = {"flat_rewards", "overflow_risk", "weight_collapse", "plain_sft", "length_driven", "divergence"}
    raised |= {"inverted_rewards", "low_diversity", "truncated_pairs", "nothing_held_out", "truncated", "unfinished_answers"}
    raised |= {"small_held_out", "rows_left_out"}
    raised |= {"online_collapse", "flat_groups", "gradient_clipped", "judge_is_reward", "judge_saw_held_out"}
    raised |= {"target_unreached"}  # by a run that weighs: tests/worker/stages/training/test_weights.py
    raised |= {"reward_disagreement"}  # by a run of several reward models: tests/worker/test_ensemble.py
    raised |= {"foreign_data"}  # by a run that compares: tests/worker/test_draws.py
    assert set(SIGNATURES) == raised
    parts = {name: field.annotation for name, field in Recipe.model_fields.items()}
    for signature in SIGNATURES.values():
        words = [word.strip(".,;:()") for word in signature.remedy.split()]
        dotted = [word.split(".") for word in words if word.count(".") == 1 and word[0].isalpha()]
        assert dotted, signature.name
        for part, field in dotted:
            known = parts[part].model_fields
            assert field in known or field in {known_field.alias for known_field in known.values()}, (signature.name, part, field)


def test_wilsons_interval_worked_by_hand() -> None:
    """8 of 10, z = 2: centre (0.8 + 0.2)/1.4, half-width 2·√(.016 + .01)/1.4."""
    low, high = wilson_interval(8, 10, z=2.0)
    half = 2 * math.sqrt(0.016 + 0.01) / 1.4
    assert (low, high) == pytest.approx((1 / 1.4 - half, 1 / 1.4 + half))
    assert wilson_interval(0, 0) == (0.0, 1.0)


@settings(deadline=None)  # a busy machine may hold up any single example
@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilsons_interval_holds_the_share_and_stays_within_bounds(total: int, share: float) -> None:
    successes = round(share * total)
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total + 1e-12
    assert successes / total - 1e-12 <= high <= 1
