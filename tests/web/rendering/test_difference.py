"""Marking where two responses differ, and saying why not."""

from app.web.rendering.difference import Unmarked, mark_differences
from app.web.rendering.format import holds


def test_the_words_that_differ_are_marked_and_nothing_is_lost() -> None:
    marked = mark_differences("a kind answer", "a rude answer")
    assert not isinstance(marked, Unmarked)
    left, right = marked
    assert ("".join(piece.text for piece in left), "".join(piece.text for piece in right)) == ("a kind answer", "a rude answer")
    assert [piece.text.strip() for piece in left if piece.differs] == ["kind"]


def test_texts_that_share_too_little_say_so() -> None:
    assert mark_differences("one two three four", "five six seven eight") is Unmarked.TOO_DIFFERENT


def test_texts_that_are_too_long_say_so() -> None:
    assert mark_differences("word " * 800, "word " * 800) is Unmarked.TOO_LONG
    assert mark_differences("x" * 20_001, "x") is Unmarked.TOO_LONG


def test_what_a_data_set_holds_is_said_in_words() -> None:
    assert holds({"num_pairs": 1, "has_preference": True}) == "1 pair"
    assert holds({"num_pairs": 1200, "has_rating": True}) == "1\u202f200 pairs, ratings"
    assert holds({"num_pairs": 0, "has_preference": True}) == "labels of single responses"
    assert holds(None) == "–"
