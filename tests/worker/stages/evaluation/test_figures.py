import math

import pytest

from worker.stages.evaluation.figures import figure_examples, figure_pairs, figure_prompts
from worker.stages.evaluation.likelihoods import DrawLikelihoods
from worker.stages.evaluation.records import AnswerRecord, DrawRecord, ExampleRecord, PromptRecord, RewardRecord, find_margin


def answer(reward, *, num_tokens=2, finished=True):
    return AnswerRecord("x", [1] * num_tokens, finished, reward, [-1.0] * num_tokens, [-2.0] * num_tokens)


def prompts(batches, policy, reference, kls=None):
    """A record for each pair of answers; the draws diverge by `kls`."""
    kls = kls or [0.5] * len(policy)
    draws = [DrawRecord([1, 2], False, DrawLikelihoods([-1.0, -1.0], [-2.0, -2.0], [kl / 4, 3 * kl / 4])) for kl in kls]
    return [PromptRecord(batches[0][0], *row) for row in zip(reference, policy, draws, strict=True)]


def test_ties_count_half_and_the_interval_holds_the_rate(batches):
    ours, theirs = ([answer(reward) for reward in rewards] for rewards in ((1.0, 2.0, 3.0, 0.0), (0.0, 2.0, 1.0, 5.0)))
    figures = figure_prompts(prompts(batches, ours, theirs))
    assert figures["win_rate"] == 0.625
    assert figures["win_rate_low"] < 0.625 < figures["win_rate_high"]
    assert figures["reward_gain"] == pytest.approx(-0.5)
    assert figures["reward_gain_low"] < -0.5 < figures["reward_gain_high"]


def test_without_a_judge_there_are_lengths_and_the_divergence(batches):
    ours, theirs = [answer(None), answer(None, num_tokens=3, finished=False)], [answer(None)] * 2
    figures = figure_prompts(prompts(batches, ours, theirs, [1.0, 2.0]))
    assert figures["num_prompts"] == 2
    assert (figures["length_policy"], figures["length_reference"]) == (2.5, 2.0)
    assert (figures["unfinished_policy"], figures["unfinished_reference"], figures["unfinished_draws"]) == (0.5, 0.0, 1.0)
    assert not {key for key in figures if key.startswith(("reward", "win"))}


def test_the_divergence_is_the_mean_over_prompts_with_its_standard_error(batches):
    kls = [1.0, 2.0, 6.0, 3.0]
    figures = figure_prompts(prompts(batches, [answer(None)] * 4, [answer(None)] * 4, kls))
    assert figures["kl"] == pytest.approx(3.0)
    assert figures["kl_se"] == pytest.approx(math.sqrt(sum((kl - 3) ** 2 for kl in kls) / 3 / 4))
    assert figures["kl_low"] < 3.0 < figures["kl_high"]


def test_what_is_not_finite_has_no_interval_and_stops_nothing(batches):
    figures = figure_prompts(prompts(batches, [answer(1.0)] * 3, [answer(math.nan)] * 3, [1.0, math.nan, 2.0]))
    assert math.isnan(figures["kl"])
    assert "kl_low" not in figures
    assert "win_rate" not in figures


def example(one, chosen, rejected):
    """The example's chosen and rejected response with (log π_θ, log π_ref) each."""
    order = [chosen if response.preference == 1 else rejected for response in one.responses]
    return ExampleRecord(one, [policy for policy, _ in order], [reference for _, reference in order])


def test_preferences_are_told_apart_by_what_the_policy_has_gained_and_ties_count_half(batches):
    one = batches[0][0]
    right, wrong, tie = example(one, (-3, -5), (-9, -8)), example(one, (-5, -4), (-5, -6)), example(one, (-4, -5), (-1, -2))
    assert [record.margin for record in (right, wrong, tie)] == [3, -2, 0]
    figures = figure_examples([right, wrong, tie, right])
    assert figures["num_preferences"] == 4
    assert figures["preference_accuracy"] == pytest.approx(2.5 / 4)
    assert figures["preference_margin"] == pytest.approx(1.0)
    assert figures["preference_margin_low"] < 1.0 < figures["preference_margin_high"]
    num = sum(len(response.ids) for response in one.responses if response.preference == 1)
    assert figures["loss"] == pytest.approx((3 + 5 + 4 + 3) / (4 * num))


def test_of_several_pairs_in_an_example_the_means_count_once(batches):
    one = batches[0][0]
    responses = [*one.responses, *(response for response in one.responses if response.preference == -1)]
    values = [1.0 if response.preference == 1 else -1.0 for response in one.responses]
    assert find_margin(responses, [*values, -4.0]) == pytest.approx(1.0 - (-2.5))
    assert find_margin([response for response in one.responses if response.preference == 1], [1.0]) is None


def test_a_reward_models_pairs_have_intervals_too(batches):
    one = batches[0][0]
    rewards = [[margin if response.preference == 1 else 0.0 for response in one.responses] for margin in (1.0, 0.0, -0.5, 2.0)]
    figures = figure_pairs([RewardRecord(one, found) for found in rewards])
    loss = sum(math.log1p(math.exp(-margin)) for margin in (1.0, 0.0, -0.5, 2.0)) / 4
    assert figures["pair_loss"] == pytest.approx(loss)
    assert figures["pair_loss_low"] < loss < figures["pair_loss_high"]
    assert (figures["num_pairs"], figures["pair_accuracy"], figures["pair_margin"]) == (4, 0.625, 0.625)
    assert figures["pair_accuracy_low"] < 0.625 < figures["pair_accuracy_high"]
    assert figure_pairs([]) == {}
