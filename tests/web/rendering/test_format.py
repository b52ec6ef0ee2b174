"""How sizes of models are written."""

import pytest

from app.system.numbers import counted
from app.web.rendering.format import parameters


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
