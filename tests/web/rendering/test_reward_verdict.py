"""The reward check in words: agreement with the labels, beside what a rule about length would reach."""

import pytest

from app.domain.scoring import EnsembleCheck
from app.web.rendering.reward_verdict import judge, verdict_of
from tests.scored import make_check

NONE = {"num_pairs": 0, "num_ties": 0, "accuracy": None, "low": 0.0, "high": 1.0, "length_accuracy": None}
LENGTH = {"length_accuracy": 0.6, "length_low": 0.55, "length_high": 0.65}
SHORT = {"length_accuracy": 0.2, "length_low": 0.15, "length_high": 0.25}


@pytest.mark.parametrize(
    ("changes", "tone", "title", "words"),
    [
        ({"accuracy": 0.9, "low": 0.86, "high": 0.93, **LENGTH}, "good", "rewards know the labels", "longer one would reach 60"),
        ({"accuracy": 0.9, "low": 0.86, "high": 0.93, "length_accuracy": None}, "good", "know the labels", "93\u202f%)."),
        ({"accuracy": 0.66, "low": 0.6, "high": 0.72, **LENGTH}, "", "like length does", "longer one would reach 60"),
        ({"accuracy": 0.6, "low": 0.55, "high": 0.65, **SHORT}, "warn", "Length alone knows more", "shorter one would reach 80"),
        ({"accuracy": 0.52, "low": 0.45, "high": 0.59, **LENGTH}, "warn", "may not know", "includes guessing"),
        ({"accuracy": 0.6, "low": 0.55, "high": 0.65, "flat": True}, "warn", "hardly tell", "little difference in size"),
        ({"accuracy": 0.2, "low": 0.1, "high": 0.4, "inverted": True}, "bad", "contradict", "in only 20"),
        (NONE, "good", "No labels to compare with", "no pairs"),
        ({**NONE, "flat": True}, "warn", "No labels to compare with", "spread"),
    ],
)  # fmt: skip
def test_a_check_is_judged_in_words(changes, tone, title, words):
    found = judge(make_check(**changes), "model")
    assert found[0] == tone
    assert title in found[1]
    assert words in found[2]


@pytest.mark.parametrize(
    ("correlation", "same_order", "accuracies", "words"),
    [
        (0.83, 0.75, [0.7, 0.6], "They are 2 models’ mean less 0.5 deviations; the models correlate by 0.83 and rank 75"),
        (0.83, 0.75, [0.7, 0.6], "alone they would be right in 70"),
        (0.2, None, [None, None], "correlate by 0.20."),
        (None, 0.5, [0.7, 0.5, 0.6], "One of the 3 models gives every response the same reward."),
    ],
)
def test_several_reward_models_say_how_far_they_agree(correlation, same_order, accuracies, words):
    told = EnsembleCheck(caution=0.5, correlation=correlation, same_order=same_order, accuracies=accuracies)
    assert words in verdict_of(make_check(ensemble=told), "model").text


def test_labels_agree_with_themselves_by_definition():
    assert judge(make_check(accuracy=1.0, low=0.9, high=1.0), "preference")[1] == "The rewards are the labels"


def test_without_pairs_or_spread_there_is_nothing_to_draw():
    verdict = verdict_of(make_check(**NONE, edges=[0.0, 0.0], counts=[0]), "rating")
    assert verdict.agreement is None
    assert verdict.histogram is None


def test_shares_are_drawn_where_they_are():
    agreement = verdict_of(make_check(accuracy=1.0, low=0.0, high=1.0), "model").agreement
    assert agreement is not None
    reward = agreement.shares[0]
    assert (reward.low, reward.high, reward.at) == (agreement.left, agreement.width - agreement.left, reward.high)
