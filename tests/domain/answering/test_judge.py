"""Judges that are no models: what they say of a text, and the figures of what is said."""

import pytest
from pydantic import ValidationError

from app.domain.answering.judge import (
    ExactJudge,
    LengthJudge,
    PatternJudge,
    RewardJudge,
    describe_scores,
    judge_key,
    read_judge,
    score_text,
)


def test_an_exact_match_minds_neither_blanks_nor_case_unless_told():
    assert score_text(ExactJudge(), " Paris\n", "paris") == 1.0
    assert score_text(ExactJudge(ignore_case=False), "Paris", "paris") == 0.0
    assert score_text(ExactJudge(), "Paris", None) is None


def test_a_pattern_compares_its_last_match_with_the_references():
    judge = PatternJudge(pattern=r"#### (-?\d+)")
    assert score_text(judge, "2 + 2 = 5, no: #### 3 … #### 4", "so #### 4") == 1.0
    assert score_text(judge, "#### 5", "#### 4") == 0.0
    assert score_text(judge, "four", "#### 4") == 0.0
    assert score_text(judge, "#### 4", "4") == 1.0  # the reference is the value itself
    assert score_text(PatternJudge(pattern="sorry"), "I am sorry", None) == 1.0


def test_length_is_of_characters():
    assert score_text(LengthJudge(), "four", None) == 4.0


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ValidationError, match="no regular expression"):
        PatternJudge(pattern="(")


def test_the_standard_error_is_over_prompts():
    scores = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 4.0, (1, 1): 4.0, (2, 0): None}
    num_scored, num_prompts, mean, se = describe_scores(scores)
    assert (num_scored, num_prompts, mean) == (4, 2, 3.0)
    assert se == pytest.approx(1.0)  # of 2 and 4
    assert describe_scores({}) == (0, 0, None, None)
    assert describe_scores({(0, 0): 2.0}) == (1, 1, 2.0, None)


def test_a_judge_is_known_by_what_it_is():
    same = RewardJudge(model="a")
    assert judge_key(same, ["x"]) == judge_key(RewardJudge(model="a"), ["x"]) != judge_key(same, ["y"])
    assert read_judge({"kind": "length"}) == LengthJudge()
