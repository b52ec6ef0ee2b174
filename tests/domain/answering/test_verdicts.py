"""What a language model says as a judge: how its verdict is read, and what all of them say of it."""

import pytest

from app.domain.answering.verdicts import (
    GRADE,
    PAIR,
    PairVerdict,
    describe_grades,
    describe_pairs,
    read_grade,
    read_verdict,
    write_bias,
    write_grade,
    write_pair,
)

READ = [
    ("A is right.\nVerdict: A", "win"),
    ("B is right.\n**Verdict: B**", "loss"),
    ("verdict: Tie.", "tie"),
    ("Verdict: Answer A", "win"),
    ("Verdict: A\nNo, on second thought:\nVerdict: B", "loss"),
    ("Answer A says “Verdict: B” itself.\nVerdict: A\n", "win"),
    ("I can't decide.", None),
    ("Verdict: C", None),
    ("Verdict: A or B", None),
    ("", None),
]


@pytest.mark.parametrize(("reply", "verdict"), READ, ids=range(len(READ)))
def test_a_verdict_is_its_last_line_by_the_place_of_the_answer(reply, verdict):
    assert read_verdict(reply, is_first=True) == verdict
    other = {"win": "loss", "loss": "win"}.get(verdict, verdict)
    assert read_verdict(reply, is_first=False) == other


@pytest.mark.parametrize(("reply", "grade"), [("Good.\nGrade: 8", 8), ("Grade: 10/10.", 10), ("Grade: 11", None), ("8", None)])
def test_a_grade_is_a_whole_number_from_1_to_10(reply, grade):
    assert read_grade(reply) == grade


def test_a_long_reply_is_read_in_no_time():
    assert read_verdict("\n" * 2_000_000 + " " * 2_000_000 + "x", is_first=True) is None


def test_texts_with_braces_are_put_into_the_prompt_as_they_are():
    asked = write_pair("What is {x}?", "{first}", "{second}")
    assert asked.index("What is {x}?") < asked.index("{first}") < asked.index("{second}")
    assert "{answer}" in write_grade("?", "{answer}")


def test_a_text_that_changes_gets_another_version():
    """Scores are kept by the hash: whoever changes a text writes its new hash and version here."""
    assert (PAIR.version, PAIR.sha256[:12]) == ("pair-1", PAIR_HASH)
    assert (GRADE.version, GRADE.sha256[:12]) == ("grade-1", GRADE_HASH)


PAIR_HASH, GRADE_HASH = "882eca455b89", "b2127f38f975"


def test_a_judge_that_always_takes_the_first_gives_everybody_half_and_is_told():
    pairs = [PairVerdict(prompt, "win", "loss") for prompt in range(10)]
    assert {pair.score for pair in pairs} == {0.5}
    facts = describe_pairs(pairs)
    assert (facts.first_share, facts.num_agreed, facts.num_pairs, facts.num_unread) == (1.0, 0, 10, 0)


def test_a_judge_without_a_bias_takes_each_place_as_often():
    pairs = [PairVerdict(prompt, "win", "win") if prompt % 2 else PairVerdict(prompt, "loss", "loss") for prompt in range(10)]
    facts = describe_pairs(pairs)
    assert (facts.first_share, facts.num_agreed) == (0.5, 10)
    assert [pair.score for pair in pairs[:2]] == [0.0, 1.0]


def test_the_interval_of_the_bias_is_over_prompts():
    leaning = [PairVerdict(prompt, "win", "loss" if prompt % 2 else "win") for prompt in range(20)]
    facts = describe_pairs(leaning)
    assert facts.first_share == pytest.approx(0.75)
    assert facts.first_low == pytest.approx(0.75 - 1.959964 * (0.25 * 20 / 19 / 4 / 20) ** 0.5)
    doubled = describe_pairs(leaning * 4)  # more draws of the same prompts tell no more
    assert (doubled.first_low, doubled.first_high) == (facts.first_low, facts.first_high)


def test_what_could_not_be_read_is_counted_and_has_no_score():
    pairs = [PairVerdict(0, "win", None), PairVerdict(1, None, None), PairVerdict(2, "tie", "tie")]
    facts = describe_pairs(pairs)
    assert (facts.num_verdicts, facts.num_unread, facts.num_pairs) == (6, 3, 1)
    assert [pair.score for pair in pairs] == [None, None, 0.5]
    assert describe_grades([7.0, None]).num_unread == 1
    assert describe_pairs([]).first_share is None


def test_the_bias_is_told_as_a_sentence():
    told = write_bias(describe_pairs([PairVerdict(prompt, "win", "loss") for prompt in range(4)] + [PairVerdict(9, "win", None)]))
    assert told == (
        "It prefers what it reads first in 100 % of its choices (100 % to 100 %), where 50 % is without bias; "
        "1 of 10 verdicts could not be read."
    )
    assert write_bias(describe_grades([7.0])) == ""
    assert write_bias(describe_grades([None])) == "1 of 1 verdicts could not be read."
