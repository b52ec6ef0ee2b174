"""The spool into the journal: in order, once, and never from a stale attempt."""

from typing import Any

import pytest

from app.domain.errors import StaleToken
from app.domain.events import SpoolLine
from app.services import attempts, recordings
from app.services import runs as services
from app.services.attempts import Claim
from app.store import journal
from app.store.database import Database
from app.store.metrics import list_metrics
from app.store.tables import JournalEntry, Run
from tests.conftest import make_library
from tests.timing import Clock

AT = "2026-01-31T12:00:00.000000Z"


@pytest.fixture
def claim(either_database: Database) -> Claim:
    library = make_library(either_database)
    with either_database.writing() as session:
        services.launch(session, library.user.id, library.recipe())
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        attempts.open_spool(session, claim)
        return claim


def line(n: int, kind: str, **payload: Any) -> SpoolLine:
    return SpoolLine(n=n, at=AT, kind=kind, payload=payload)


def step(n: int, number: int, **metrics: float | None) -> SpoolLine:
    return line(
        n, "step", step=number, num_steps=10, epoch=0.5, batch=0, metrics=metrics, histogram=[1, 2], seconds_left=10.0 - number
    )


def record(database: Database, claim: Claim, *lines: SpoolLine) -> None:
    with database.writing() as session:
        recordings.record(session, claim.run_id, claim.token, lines)


def read(database: Database, claim: Claim) -> list[JournalEntry]:
    """What the runner wrote: all after queued and running."""
    with database.reading() as session:
        return journal.read(session, claim.run_id, after=2)


def fetch(database: Database, claim: Claim) -> Run:
    with database.reading() as session:
        run = session.get(Run, claim.run_id)
        assert run is not None
        return run


def test_lines_become_entries_values_and_the_rows_progress(either_database: Database, claim: Claim) -> None:
    record(
        either_database,
        claim,
        line(1, "stage", stage="train", total=10, unit="steps"),
        step(2, 1, loss=3.0),
        step(3, 2, loss=2.0),
        line(4, "evaluation", step=2, metrics={"eval/kl": 0.5}),
    )
    assert [(entry.seq, entry.kind) for entry in read(either_database, claim)] == [
        (3, "stage"), (4, "step"), (5, "step"), (6, "evaluation"),
    ]  # fmt: skip
    run = fetch(either_database, claim)
    assert (run.stage, run.step, run.num_steps, run.progress, run.seconds_left) == ("train", 2, 10, 0.2, 8.0)
    assert (run.spool_n, run.last_seq) == (4, 6)
    with either_database.reading() as session:
        series = list_metrics(session, claim.run_id, ["loss", "eval/kl"])
    assert series == {"loss": [(1, 3.0), (2, 2.0)], "eval/kl": [(2, 0.5)]}


def test_lines_that_come_twice_are_recorded_once(either_database: Database, claim: Claim) -> None:
    lines = [step(n, n, loss=1.0) for n in range(1, 6)]
    for upto in (2, 2, 4, 3, 5, 5):
        record(either_database, claim, *lines[:upto])
    assert [entry.payload["step"] for entry in read(either_database, claim)] == [1, 2, 3, 4, 5]
    assert fetch(either_database, claim).last_seq == 7


def test_a_stale_attempt_records_nothing(either_database: Database, claim: Claim) -> None:
    record(either_database, claim, step(1, 1, loss=1.0))
    with either_database.writing() as session:
        attempts.lose(session, claim.run_id, claim.token, "gone")
        attempts.begin(session, "other", 30)
    before = fetch(either_database, claim).last_seq
    with pytest.raises(StaleToken):
        record(either_database, claim, step(2, 2, loss=1.0))
    assert fetch(either_database, claim).last_seq == before
    with either_database.reading() as session:
        assert list_metrics(session, claim.run_id, ["loss"])["loss"] == [(1, 1.0)]


def test_an_attempt_that_resumes_replaces_later_values(either_database: Database, claim: Claim) -> None:
    record(either_database, claim, *(step(n, n, loss=float(n)) for n in range(1, 6)))
    with either_database.writing() as session:
        attempts.lose(session, claim.run_id, claim.token, "gone")
        second = attempts.begin(session, "other", 30)
        assert second is not None
        assert second.spool_attempt == 1
    record(either_database, second, *(step(n, n, loss=float(n)) for n in range(4, 7)))  # what nobody had recorded
    with either_database.writing() as session:
        attempts.open_spool(session, second)
    resume = line(1, "resume", attempt=2, step=3, checkpoint="step-000003")
    record(either_database, second, resume, step(2, 4, loss=40.0))
    with either_database.reading() as session:
        assert list_metrics(session, claim.run_id, ["loss"])["loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert fetch(either_database, claim).step == 4


def test_values_before_a_resume_in_the_same_batch_are_replaced_too(either_database: Database, claim: Claim) -> None:
    resume = line(3, "resume", attempt=1, step=1)
    record(either_database, claim, step(1, 1, loss=1.0), step(2, 2, loss=2.0), resume, step(4, 2, loss=20.0))
    with either_database.reading() as session:
        assert list_metrics(session, claim.run_id, ["loss"])["loss"] == [(1, 1.0), (2, 20.0)]


def test_the_outcome_is_left_to_finish_and_still_counts_as_read(either_database: Database, claim: Claim) -> None:
    record(either_database, claim, step(1, 1, loss=1.0), line(2, "outcome", outcome="succeeded"))
    assert [entry.kind for entry in read(either_database, claim)] == ["step"]
    run = fetch(either_database, claim)
    assert (run.state, run.spool_n) == ("running", 2)


def test_what_can_not_be_understood_is_a_warning_and_the_rest_goes_on(either_database: Database, claim: Claim) -> None:
    record(
        either_database,
        claim,
        line(1, "state", state="succeeded", attempt=1),
        line(2, "mystery"),
        line(3, "step", step="many"),
        step(4, 1, loss=None),
    )
    entries = read(either_database, claim)
    assert [entry.kind for entry in entries] == ["log", "log", "log", "step"]
    assert {entry.payload["level"] for entry in entries[:3]} == {"warning"}
    assert fetch(either_database, claim).state == "running"


def test_characters_that_a_database_refuses_are_replaced(either_database: Database, claim: Claim) -> None:
    record(either_database, claim, line(1, "log", level="info", text="nul \0, half \ud800, whole \U0001f600"))
    (entry,) = read(either_database, claim)
    assert entry.payload["text"] == "nul \ufffd, half \ufffd, whole \U0001f600"


def test_five_hundred_steps_of_twenty_metrics_are_recorded_in_seconds(
    either_database: Database, claim: Claim, clock: Clock
) -> None:
    lines = [step(n, n, **{f"key{k}": 1.0 for k in range(20)}) for n in range(1, 501)]
    with clock.within(5):
        for start in range(0, 500, 250):
            record(either_database, claim, *lines[start : start + 250])
    assert fetch(either_database, claim).step == 500
