"""A17: cancelling, against a run that waits, begins, finishes or has ended."""

import threading
import time
from collections.abc import Callable

import pytest

from app.domain.errors import Conflict, StaleToken
from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.services import attempts
from app.services import runs as services
from app.services.attempts import Claim
from app.store.database import Database
from app.store.tables import Attempt
from tests.conftest import Library, make_library
from tests.faults.house import House
from tests.flow.watching import fetch, read_journal

FINAL = {"succeeded", "failed", "cancelled"}


def race(left: Callable[[int], None], right: Callable[[int], None], num_races: int) -> list[BaseException]:
    """Call both with each number, each time from the same moment on; what they raised unforeseen."""
    barrier, errors = threading.Barrier(2, timeout=120), []

    def go(act: Callable[[int], None]) -> None:
        for number in range(num_races):
            barrier.wait()
            try:
                act(number)
            except (Conflict, StaleToken):  # the other was faster
                continue
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=go, args=[act]) for act in (left, right)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def launch_many(database: Database, library: Library, num_runs: int) -> list[str]:
    with database.writing() as session:
        return [services.launch(session, library.user.id, library.recipe()).id for _ in range(num_runs)]


def begin_all(database: Database, num_runs: int) -> list[Claim]:
    with database.writing() as session:
        claims = [attempts.begin(session, "worker", 600) for _ in range(num_runs)]
    return [claim for claim in claims if claim is not None]


def states_of(database: Database, run_id: str) -> list[str]:
    return [entry.payload["state"] for entry in read_journal(database, run_id, "state")]


@pytest.mark.parametrize("num_races", [40, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_in_all_races_of_cancel_and_finish_each_run_has_one_end(either_database: Database, num_races: int) -> None:
    library = make_library(either_database)
    launch_many(either_database, library, num_races)
    claims = begin_all(either_database, num_races)
    assert len(claims) == num_races
    asked: set[str] = set()

    def cancel(number: int) -> None:
        with either_database.writing() as session:
            services.request_cancel(session, library.user.id, claims[number].run_id)
        asked.add(claims[number].run_id)

    def finish(number: int) -> None:
        claim = claims[number]
        outcome = Outcome.FAILED if number % 2 else Outcome.SUCCEEDED  # a failure would be queued again, were it not cancelled
        with either_database.writing() as session:
            attempts.finish(
                session, claim.run_id, claim.token, OutcomeReached(outcome=outcome, reason="It fell."), max_attempts=3
            )

    assert race(cancel, finish, num_races) == []
    kinds: dict[tuple[str, bool], int] = {}
    for number, claim in enumerate(claims):
        run, states = fetch(either_database, claim.run_id), states_of(either_database, claim.run_id)
        ends = [state for state in states if state in FINAL]
        assert len(ends) == 1, states
        assert (ends[0], states[-1]) == (run.state, run.state)
        assert run.state == ("cancelled" if number % 2 else "succeeded")
        assert run.finished_at is not None
        kinds[run.state, claim.run_id in asked] = kinds.get((run.state, claim.run_id in asked), 0) + 1
    assert kinds["cancelled", True] == num_races // 2
    assert sum(kinds.values()) == num_races


def test_a_queued_run_that_is_cancelled_while_a_worker_begins_it_never_starts_or_is_asked_to_stop(
    either_database: Database,
) -> None:
    library = make_library(either_database)
    num_races = 50
    run_ids = launch_many(either_database, library, num_races)

    def cancel(number: int) -> None:
        with either_database.writing() as session:
            services.request_cancel(session, library.user.id, run_ids[number])

    def begin(number: int) -> None:
        with either_database.writing() as session:
            attempts.begin(session, "worker", 600)

    assert race(cancel, begin, num_races) == []
    for run_id in run_ids:
        run = fetch(either_database, run_id)
        with either_database.reading() as session:
            begun = session.get(Attempt, (run_id, 1)) is not None
        assert (run.state, run.cancel_requested_at is not None) == (("running", True) if begun else ("cancelled", False))
        assert states_of(either_database, run_id) == (["queued", "running"] if begun else ["queued", "cancelled"])


def test_a_cancelled_queued_run_never_starts(house: House) -> None:
    house.start_web()
    first, second = house.launch(), house.launch()
    assert house.http.post(f"/api/v1/runs/{first}/cancel").json()["state"] == "cancelled"
    house.start_worker()
    house.wait_for_end(second)
    time.sleep(1)  # two more looks of the worker
    run = house.run(first)
    assert (run["state"], run["attempt"], run["started_at"], run["attempts"]) == ("cancelled", 0, None, [])
    assert house.states(first) == ["queued", "cancelled"]
    assert not house.files.run_dir(first).exists()
    for run_id in (first, second):
        refused = house.http.post(f"/api/v1/runs/{run_id}/cancel")
        assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
        assert "already" in refused.json()["detail"]
