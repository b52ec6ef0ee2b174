import random

import pytest

from app.domain.statistics.agreement import compare_judges, krippendorff_alpha


def vote(num_units, num_voters, skill, seed, missing=0.0):
    """Voters who see the truth of a unit with a chance of `skill`, and guess else; some votes are missing."""
    chance, units = random.Random(seed), []
    for _ in range(num_units):
        truth = chance.choice("AB")
        seen = [truth if chance.random() < skill else chance.choice("AB") for _ in range(num_voters)]
        units.append([one for one in seen if chance.random() >= missing])
    return units


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    units = [[1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1],
             [2, 2, 2, 2], [5, 5, 5], [1, 1], [3]]  # fmt: skip
    found = krippendorff_alpha(units)
    assert found.value == pytest.approx(0.743, abs=0.0005)  # K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011
    assert found.low < found.value < found.high <= 1


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_planted_agreement_is_found_again(missing: float) -> None:
    found = krippendorff_alpha(vote(1500, 3, 0.7, seed=5, missing=missing))  # both see the truth: α = 0.7²
    assert found.low <= 0.49 <= found.high
    assert found.value == pytest.approx(0.49, abs=0.05)
    guessed = krippendorff_alpha(vote(400, 3, 0.0, seed=6))
    assert guessed.low <= 0 <= guessed.high


def test_alpha_of_nothing_and_of_one_word() -> None:
    assert krippendorff_alpha([["A"], [], ["B"]]) is None
    assert krippendorff_alpha([["A", "A"], ["A", "A", "A"]]).value == 1
    assert krippendorff_alpha([["A", "B"], ["B", "A"]]).value < 0


def test_two_judges_agree_as_cohens_kappa_says() -> None:
    first = {place: "yes" if place < 25 else "no" for place in range(50)}
    second = {place: "yes" if place < 20 or 25 <= place < 35 else "no" for place in range(50)}
    found = compare_judges(first, second)
    assert found.num == 50
    assert found.share.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.low < 0.4 < found.kappa.high
    assert compare_judges(first, first).kappa.value == 1


def test_judges_are_compared_where_both_judged() -> None:
    assert compare_judges({1: "A"}, {2: "A"}) is None
    found = compare_judges({1: "A", 2: "B", 3: "A"}, {2: "B", 3: "B", 4: "A"})
    assert (found.num, found.share.value) == (2, 0.5)


def test_judgements_of_one_prompt_count_as_one_group() -> None:
    first = {(prompt, pair): "A" if prompt % 2 else "B" for prompt in range(20) for pair in range(6)}
    second = {key: "A" if key[0] % 4 else "B" for key in first}
    alone, grouped = compare_judges(first, second), compare_judges(first, second, {key: key[0] for key in first})
    assert alone.share.value == grouped.share.value
    assert grouped.share.high - grouped.share.low > 1.8 * (alone.share.high - alone.share.low)
