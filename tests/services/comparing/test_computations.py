"""Computations beside the requests: each once at a time, their failures told to the next who asks."""

import threading

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
        computations.ask("one", work)
    go.set()
    computations.wait()
    assert begun == [1]
    computations.ask("one", work)
    computations.wait()
    assert begun == [1, 1]


@pytest.mark.parametrize(
    ("error", "told", "words"), [(Unavailable("No room."), Unavailable, "No room."), (ValueError("x"), StudioError, UNEXPECTED)]
)
def test_what_went_wrong_is_told_once_and_tried_again(error, told, words):
    def work() -> None:
        raise error

    computations = Computations()
    computations.ask("one", work)
    computations.wait()
    with pytest.raises(told, match=words):
        computations.ask("one", work)
    computations.ask("one", lambda: None)
    computations.wait()
    computations.ask("one", lambda: None)
    computations.wait()
