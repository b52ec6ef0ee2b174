"""Computations beside the requests: each once at a time, their failures told to the next who asks."""

import threading
from functools import partial

import pytest

from app.domain.errors import StudioError, Unavailable
from app.services.comparing.computations import UNEXPECTED, Computations


def test_what_is_being_computed_is_not_begun_again():
    go, begun = threading.Event(), []

    def work() -> None:
        begun.append(1)
        assert go.wait(60)

    computations = Computations()
    for _ in range(3):
        computations.ask("one", "ada", work)
    go.set()
    computations.wait()
    assert begun == [1]
    computations.ask("one", "ada", work)
    computations.wait()
    assert begun == [1, 1]


@pytest.mark.parametrize(
    ("error", "told", "words"), [(Unavailable("No room."), Unavailable, "No room."), (ValueError("x"), StudioError, UNEXPECTED)]
)
def test_what_went_wrong_is_told_once_and_tried_again(error, told, words):
    def work() -> None:
        raise error

    computations = Computations()
    computations.ask("one", "ada", work)
    computations.wait()
    with pytest.raises(told, match=words):
        computations.ask("one", "ada", work)
    computations.ask("one", "ada", lambda: None)
    computations.wait()
    computations.ask("one", "ada", lambda: None)
    computations.wait()


def test_owners_take_turns_however_much_one_of_them_asks_for():
    go, done = threading.Event(), []

    def note(name: str) -> None:
        assert go.wait(60)
        done.append(name)

    computations = Computations()
    for owner_id, name in (("ada", "a1"), ("ada", "a2"), ("ada", "a3"), ("ada", "a4"), ("eve", "e1"), ("eve", "e2")):
        computations.ask(name, owner_id, partial(note, name))
    go.set()
    computations.wait()
    assert done == ["a1", "e1", "a2", "e2", "a3", "a4"]
