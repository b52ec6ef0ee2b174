"""How sizes of models are written."""

import pytest

from app.system.numbers import counted
from app.web.rendering.format import count, parameters, percent


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (44, "44"), (260_032, "260 k"), (1_500, "1.5 k"), (134_515_008, "135 M"), (7_200_000_000, "7.2 B"),
     (70_000_000_000, "70 B"), (999_700, "1.0 M")],
)  # fmt: skip
def test_parameters_are_counted_in_the_unit_that_reads_best(number, text):
    assert parameters(number) == text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "pair", "1 pair"), (2, "pair", "2 pairs"), (1, "batch", "1 batch"), (3, "batch", "3 batches")],
)
def test_things_are_counted_in_words(number, noun, text):
    assert counted(number, noun) == text


def test_no_number_is_parted_from_its_sign_or_within_itself_at_the_end_of_a_line():
    """U+202F has the width of a thin space and, unlike it, is no place to break a line."""
    assert [percent(0.45), count(27716)] == ["45\N{NARROW NO-BREAK SPACE}%", "27\N{NARROW NO-BREAK SPACE}716"]
