"""Users take turns, and none has all places."""

import threading
from collections import Counter
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from app.ingest.turns import Turns
from tests.waiting import END_SECONDS, wait_until


class Work:
    """Things to be done that go on until they are let end; `begun` in the order in which they began."""

    def __init__(self, places: int, share: int) -> None:
        self.turns, self.begun = Turns(places, share), list[str]()
        self._ends: dict[str, threading.Event] = {}
        self.futures: dict[str, Future[str]] = {}

    def ask(self, *names: str) -> None:
        for name in names:
            self._ends[name] = threading.Event()
            self.futures[name] = self.turns.submit(name[0], self._do, name)

    def _do(self, name: str) -> str:
        self.begun.append(name)
        assert self._ends[name].wait(END_SECONDS)
        return name

    def end(self, name: str, then: int) -> None:
        """Let one end, and wait until so many have begun in all."""
        self._ends[name].set()
        assert self.futures[name].result(END_SECONDS) == name
        wait_until(lambda: len(self.begun) == then, f"the turn after {name}")

    def close(self) -> None:
        for end in self._ends.values():
            end.set()
        self.turns.close()


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Any:
    work = Work(*request.param)
    yield work
    work.close()


@pytest.mark.parametrize("work", [(4, 3)], indirect=True)
def test_a_newcomer_begins_at_once_however_much_another_has_waiting(work: Work) -> None:
    work.ask(*(f"a{n}" for n in range(50)))
    wait_until(lambda: len(work.begun) == 3, "the share of the first")
    work.ask("b0")
    wait_until(lambda: "b0" in work.begun, "the turn of the second")
    assert sorted(work.begun) == ["a0", "a1", "a2", "b0"]


@pytest.mark.parametrize("work", [(1, 1)], indirect=True)
def test_at_one_place_users_take_turns_each_in_their_order(work: Work) -> None:
    work.ask("a0", "a1", "a2", "b0", "b1", "c0")
    for then, name in enumerate(["a0", "b0", "c0", "a1", "b1"], start=2):
        work.end(name, then)
    assert work.begun == ["a0", "b0", "c0", "a1", "b1", "a2"]


@pytest.mark.parametrize("work", [(2, 2)], indirect=True)
def test_whose_owner_has_the_least_under_way_is_next(work: Work) -> None:
    work.ask("a0", "a1", "a2", "a3", "b0", "c0")
    wait_until(lambda: len(work.begun) == 2, "the first two")
    work.end("a0", 3)
    work.end("a1", 4)
    assert work.begun[2:] == ["b0", "c0"]
    work.end("c0", 5)
    assert work.begun[4] == "a2"


@pytest.mark.parametrize("work", [(6, 4)], indirect=True)
def test_never_are_more_under_way_than_there_are_places_or_shares(work: Work) -> None:
    work.ask(*(f"{owner}{n}" for n in range(9) for owner in "abc"))
    wait_until(lambda: len(work.begun) == 6, "all places")
    assert Counter(name[0] for name in work.begun) == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("work", [(1, 1)], indirect=True)
def test_what_fails_gives_its_place_back_and_what_waits_at_the_end_is_cancelled(work: Work) -> None:
    failing = work.turns.submit("x", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(END_SECONDS)
    work.ask("a0", "b0")
    wait_until(lambda: work.begun == ["a0"], "the first")
    work.turns.close()
    with pytest.raises(CancelledError):
        work.futures["b0"].result(END_SECONDS)
