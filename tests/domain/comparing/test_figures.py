import math
import random

import pytest

from app.domain.comparing.figures import Figures, Judged, find_figures, list_gains
from app.domain.comparing.verdict import find_leading_judge, write_verdict


def make_scores(means, num_prompts, seed=0):
    """Scores of models on prompts that differ more than the models do."""
    chance = random.Random(seed)
    hardness = [chance.gauss(0, 3) for _ in range(num_prompts)]
    return [[hard + mean + chance.gauss(0, 1) for mean in means] for hard in hardness]


def make_lengths(num_models, num_prompts, seed=1):
    chance = random.Random(seed)
    return [[chance.randint(20, 200) for _ in range(num_models)] for _ in range(num_prompts)]


def compare(means, num_prompts=60, identities=None, kind="reward"):
    judged = Judged("r", "R", kind, make_scores(means, num_prompts))
    names = identities or [f"hash{place}" for place in range(len(means))]
    return find_figures([judged], make_lengths(len(means), num_prompts), names)


def test_two_models_are_compared_prompt_by_prompt_and_the_sentence_says_who_wins():
    found = compare([1.0, 0.0], 100)
    pair = found.judges[0].pairs[0]
    assert pair.told_apart
    assert pair.winner == 0
    assert pair.num_wins + pair.num_losses == pair.num_prompts == 100
    assert pair.gain.low < 1.0 < pair.gain.high
    said = write_verdict(find_leading_judge(found), ["A", "B"])
    assert said.startswith(f"A beats B on {pair.win_rate.value * 100:.0f} % of 100 prompts, 95 % interval ")
    assert "; by R; length-controlled" in said


def test_the_sentence_turns_the_pair_around_where_the_second_wins():
    found = compare([0.0, 1.0], 100)
    pair = found.judges[0].pairs[0]
    said = write_verdict(found.judges[0], ["A", "B"])
    assert said.startswith(f"B beats A on {(1 - pair.win_rate.value) * 100:.0f} %")
    assert f"interval {(1 - pair.win_rate.high) * 100:.0f} to {(1 - pair.win_rate.low) * 100:.0f}" in said


def test_models_that_are_not_told_apart_come_with_the_number_of_prompts_it_would_take():
    found = compare([0.0, 0.05], 30)
    pair = found.judges[0].pairs[0]
    assert not pair.told_apart
    said = write_verdict(found.judges[0], ["A", "B"])
    assert "are not told apart" in said
    assert f"about {pair.needed_prompts:,} prompts".replace(",", " ") in said


def test_a_model_is_never_ranked_against_itself():
    found = compare([1.0, 0.0], 100, identities=["same", "same"])
    pair = found.judges[0].pairs[0]
    assert pair.is_same_model
    assert not pair.told_apart
    assert pair.needed_prompts is None
    assert "are the same model" in write_verdict(found.judges[0], ["A", "B"])
    assert compare([1.0, 0.0, 0.5], 50, identities=["a", "b", "a"]).judges[0].strengths is None


def test_three_models_have_strengths_and_the_sentence_names_the_strongest():
    found = compare([1.5, 0.5, 0.0], 150)
    strengths = found.judges[0].strengths
    assert [one.may_be_best for one in strengths] == [True, False, False]
    said = write_verdict(found.judges[0], ["A", "B", "C"])
    assert said.startswith("A is the strongest of 3 models by R. A beats B on ")
    alike = write_verdict(compare([0.0, 0.0, -3.0], 60).judges[0], ["A", "B", "C"])
    assert "are not told apart at the top of 3 models by R, where all pairs share an error of 5 %." in alike


def test_a_larger_mean_with_fewer_wins_is_said_to_be_that():
    scores = [[30.0 if prompt % 3 == 0 else -1.0, 0.0] for prompt in range(90)]
    found = find_figures([Judged("r", "R", "reward", scores)], make_lengths(2, 90), ["a", "b"])
    assert "gets more in the mean than B (+9.33), but wins only on 33 % of 90 prompts" in write_verdict(
        found.judges[0], ["A", "B"]
    )


def test_a_length_ranks_nobody_and_judges_agreement_leaves_it_out():
    scores = make_scores([1.0, 0.0], 80)
    judged = [
        Judged("len", "Length", "length", make_lengths(2, 80)),
        Judged("r", "R", "reward", scores),
        Judged("q", "Q", "reward", [[-one for one in row] for row in scores]),
    ]
    found = find_figures(judged, make_lengths(2, 80), ["a", "b"])
    assert find_leading_judge(found).key == "r"
    assert found.judges[0].pairs[0].length_controlled is None
    [agreement] = found.agreements
    assert (agreement.first, agreement.second) == ("r", "q")
    assert agreement.found.share.value == 0


def test_prompts_without_a_score_are_left_out_of_their_pairs_alone():
    gains = list_gains([[1.0, None, 0.0], [2.0, 1.0, None]])
    assert gains == {(0, 1): {1: 1.0}, (0, 2): {0: 1.0}}
    found = find_figures([Judged("r", "R", "reward", [[None, None]])], [[1, 1]], ["a", "b"])
    assert found.judges[0].pairs == []
    assert write_verdict(find_leading_judge(found), ["A", "B"]).startswith("No judge has scored")


def test_figures_are_read_as_they_were_written():
    found = compare([0.5, 0.2, 0.0], 40)
    assert Figures.model_validate_json(found.model_dump_json()) == found


@pytest.mark.bench
def test_planted_truth_over_many_comparisons():
    rounds = [
        sum(compare_once([0.0, 0.0], seed).told_apart for seed in range(start, start + 200)) for start in range(0, 1000, 200)
    ]
    apart = sum(rounds)
    found = sum(compare_once([0.36, 0.0], seed).told_apart for seed in range(200))  # P(win) = Φ(0.36/√2) = 60 %
    print(f"equal: {apart} of 1000 told apart, by rounds of 200 {rounds}; a win rate of 60 % on 150 prompts: {found} of 200")
    assert apart <= 50 + 2 * math.sqrt(1000 * 0.05 * 0.95)  # a twentieth, and two deviations of such a count
    assert found >= 165


def compare_once(means, seed):
    judged = Judged("r", "R", "exact", make_scores(means, 150, seed))
    return find_figures([judged], [[1, 1]] * 150, ["a", "b"]).judges[0].pairs[0]
