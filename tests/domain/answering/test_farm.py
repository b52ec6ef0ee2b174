"""The candidate farm: what is taken of each prompt's answers."""

import pytest

from app.domain.answering.farm import FarmShape, Omission, describe, gather_candidates, list_left_out, take

ANSWERS = [
    {"index": 0, "draw": 0, "text": "good"}, {"index": 0, "draw": 1, "text": "bad one"}, {"index": 0, "draw": 2, "text": "fair"},
    {"index": 0, "draw": 3, "text": "good"}, {"index": 1, "draw": 0, "text": "alone"},
    {"index": 2, "draw": 0, "text": "no score"},
    {"index": 3, "draw": 0, "text": "a", "earlier": ["x"]}, {"index": 3, "draw": 1, "text": "b", "earlier": ["y"]},
]  # fmt: skip
SCORES = {(0, 0): 3.0, (0, 1): 1.0, (0, 2): 2.0, (0, 3): 2.5, (1, 0): 1.0, (2, 0): None, (3, 0): 1.0, (3, 1): 2.0}


@pytest.fixture
def candidates():
    return gather_candidates(ANSWERS, SCORES)


def test_candidates_stand_best_first_and_equal_texts_count_once(candidates):
    assert [(one.text, one.score, one.draw) for one in candidates[0]] == [("good", 3.0, 0), ("fair", 2.0, 2), ("bad one", 1.0, 1)]
    assert candidates.keys() == {0, 1, 3}  # none without a score


def test_best_against_worst_is_one_pair(candidates):
    (row,) = take(candidates[0], FarmShape.BEST_WORST, 0.0).rows
    assert row == {
        "chosen": "good", "rejected": "bad one", "rating_chosen": 3.0, "rating_rejected": 1.0, "draws": [0, 1],
    }  # fmt: skip
    assert take(candidates[0], FarmShape.BEST_WORST, 2.0).rows == []
    assert take(candidates[1], FarmShape.BEST_WORST, 0.0).rows == []


def test_pairs_are_those_above_the_margin(candidates):
    pairs = [(row["chosen"], row["rejected"]) for row in take(candidates[0], FarmShape.PAIRS, 0.0).rows]
    assert pairs == [("good", "fair"), ("good", "bad one"), ("fair", "bad one")]
    assert len(take(candidates[0], FarmShape.PAIRS, 1.0).rows) == 1


def test_a_ranked_list_the_best_and_all(candidates):
    assert take(candidates[0], FarmShape.RANKED, 0.0).rows[0]["ratings"] == [3.0, 2.0, 1.0]
    assert take(candidates[0], FarmShape.BEST, 0.0).rows == [{"response": "good", "rating": 3.0, "draws": [0]}]
    assert [row["rating"] for row in take(candidates[0], FarmShape.RATED, 0.0).rows] == [3.0, 2.0, 1.0]
    assert take(candidates[1], FarmShape.BEST, 0.0).rows[0]["response"] == "alone"


def test_gaps_and_lengths_are_told_before_anything_is_made(candidates):
    figures = describe(take(candidates[index], FarmShape.BEST_WORST, 0.0) for index in (0, 1))
    assert (figures.num_prompts, figures.num_skipped, figures.num_rows) == (1, 1, 1)
    assert (figures.mean_gap, figures.mean_better_length, figures.mean_worse_length, figures.longer_wins) == (2.0, 4.0, 7.0, 0.0)
    nothing = describe([])
    assert (nothing.mean_gap, nothing.gaps) == (None, [])


def test_only_answers_that_follow_the_same_earlier_answers_are_set_against_each_other():
    said = [("a", "x"), ("b", "y"), ("c", "x"), ("a", "y")]
    rows = [{"index": 0, "draw": draw, "text": text, "earlier": [earlier]} for draw, (text, earlier) in enumerate(said)]
    found = gather_candidates(rows, {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 3.0, (0, 3): 4.0})[0]
    pairs = take(found, FarmShape.BEST_WORST, 0.0).rows
    assert [(row["earlier"], row["chosen"], row["rejected"]) for row in pairs] == [(["y"], "a", "b"), (["x"], "c", "a")]
    (best,) = take(found, FarmShape.BEST, 0.0).rows
    assert (best["earlier"], best["response"]) == (["y"], "a")
    assert len(take(found, FarmShape.RATED, 0.0).rows) == 4


def test_what_gives_nothing_is_counted_with_the_reason(candidates):
    taken = [take(candidates.get(index, ()), FarmShape.PAIRS, 2.0) for index in range(5)]
    assert [one.left_out for one in taken] == [
        Omission.MARGIN, Omission.ALONE, Omission.UNSCORED, Omission.OWN_TURNS, Omission.UNSCORED,
    ]  # fmt: skip
    figures = describe(taken)
    assert (figures.num_skipped, figures.left_out[Omission.UNSCORED]) == (5, 2)
    assert list_left_out(figures)[0] == "2 prompts have no answer with a text and a score"
    assert take(candidates[3], FarmShape.BEST, 0.0).left_out is None
