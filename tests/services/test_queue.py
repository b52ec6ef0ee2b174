"""The line: whose run begins next, and what users can do about it. On both databases where the database decides."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from app.domain.events import OutcomeReached
from app.domain.run import Outcome, RunState
from app.services import attempts
from app.services import queue as service
from app.services import runs as services
from app.services import workers as fleet
from app.services.acts import Actor
from app.store import journal, queue, runs
from app.store.database import Database, now
from app.store.tables import Run, User, Worker
from app.store.workers import list_workers
from tests.conftest import Library, make_library

ADA, EVE = Actor("user_ada", is_admin=True), Actor("user_eve", is_admin=False)


def launch(database: Database, library: Library, num_runs: int = 1, *, owner: str = "user_ada", priority: int = 0) -> list[str]:
    """Queued runs, one after the other; those of another owner are made of Ada's and handed over."""
    with database.writing() as session:
        made = [services.launch(session, "user_ada", library.recipe(), priority=priority) for _ in range(num_runs)]
        if session.get(User, owner) is None:
            session.add(User(id=owner, name=owner, role="member", created_at=now(session)))
            session.flush()
        for run in made:
            run.owner_id = owner
        return [run.id for run in made]


def begin(database: Database, worker: str = "worker") -> str | None:
    with database.writing() as session:
        claim = attempts.begin(session, worker, 60)
        return claim.run_id if claim else None


def end(database: Database, run_id: str, outcome: Outcome = Outcome.SUCCEEDED) -> str:
    with database.writing() as session:
        token = runs.lock_run(session, run_id).token
        return str(attempts.finish(session, run_id, token, OutcomeReached(outcome=outcome, reason="told to stop")))


def fetch(database: Database, run_id: str) -> Run:
    with database.reading() as session:
        return session.get_one(Run, run_id)


def told(database: Database, run_id: str) -> list[str]:
    """What the journal, and so a live reader, was told of the run's state."""
    with database.reading() as session:
        return [entry.payload["state"] for entry in journal.read(session, run_id, kinds=["state"])]


def show_queue(database: Database) -> list[str]:
    with database.reading() as session:
        return [queued.run.id for queued in queue.list_queue(session)]


def beat(database: Database, *workers: str, slots: int = 1) -> None:
    with database.writing() as session:
        for worker in workers:
            attempts.beat(session, worker, hostname=worker, devices=[], slots=slots)


def test_users_take_turns_however_many_runs_one_of_them_has_queued(either_database: Database) -> None:
    library = make_library(either_database)
    ada = launch(either_database, library, 4)
    eve = launch(either_database, library, 2, owner="user_eve")
    expected = [ada[0], eve[0], ada[1], eve[1], ada[2], ada[3]]
    assert show_queue(either_database) == expected
    assert [begin(either_database) for _ in range(6)] == expected


def test_who_has_fewer_running_runs_goes_first(either_database: Database) -> None:
    library = make_library(either_database)
    ada = launch(either_database, library, 3)
    assert [begin(either_database), begin(either_database)] == ada[:2]
    eve = launch(either_database, library, 3, owner="user_eve")
    assert [begin(either_database), begin(either_database)] == eve[:2]  # now each has two
    assert begin(either_database) == ada[2]
    end(either_database, eve[0])
    assert begin(either_database) == eve[2]


def test_a_higher_priority_goes_before_any_turn(either_database: Database) -> None:
    library = make_library(either_database)
    low = launch(either_database, library, owner="user_eve", priority=-1)
    ada = launch(either_database, library, 2)
    urgent = launch(either_database, library, 2, priority=5)
    assert [begin(either_database) for _ in range(5)] == [*urgent, *ada, *low]


def test_the_line_is_what_begins_whatever_else_runs_and_is_held(either_database: Database) -> None:
    library = make_library(either_database)
    ids = launch(either_database, library, 5) + launch(either_database, library, 5, owner="user_eve")
    ids += launch(either_database, library, 4, owner="user_bob", priority=1) + launch(either_database, library, 3, priority=1)
    begun = [begin(either_database) for _ in range(3)]
    with either_database.writing() as session:
        service.pause(session, ADA, ids[1])
        service.move(session, ADA, ids[4], to="front")
        service.move(session, ADA, ids[9], before=ids[6])
    foreseen = show_queue(either_database)
    assert sorted([*foreseen, *begun, ids[1]]) == sorted(ids)
    with either_database.reading() as session:
        positions = [queue.find_position(session, session.get_one(Run, run_id)) for run_id in foreseen]
        own = queue.list_queue(session, owner_id="user_eve")
    assert positions == list(range(1, len(foreseen) + 1))
    assert {queued.run.id: queued.position for queued in own} == {
        run_id: foreseen.index(run_id) + 1 for run_id in foreseen if run_id in ids[5:10]
    }
    assert [begin(either_database) for _ in foreseen] == foreseen


def test_workers_that_begin_at_once_take_each_run_once_and_are_fair(either_database: Database) -> None:
    library = make_library(either_database)
    ids = launch(either_database, library, 20) + launch(either_database, library, 4, owner="user_eve")
    begun: list[str | None] = []

    def work(name: str) -> None:
        begun.extend(begin(either_database, name) for _ in range(2))

    threads = [threading.Thread(target=work, args=[f"worker-{n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [run_id for run_id in begun if run_id is not None]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(ids)
    assert len(set(taken) & set(ids[20:])) >= 3


def test_moving_a_run_changes_the_order_among_the_owners_runs_only(either_database: Database) -> None:
    library = make_library(either_database)
    first = launch(either_database, library, 2)
    eve = launch(either_database, library, owner="user_eve")
    last = launch(either_database, library, 2)
    with either_database.writing() as session:
        service.move(session, ADA, last[1], to="front")
    assert show_queue(either_database) == [last[1], eve[0], first[0], first[1], last[0]]
    with either_database.writing() as session:
        service.move(session, ADA, last[1], to="end")
        service.move(session, ADA, last[0], before=first[1])
    assert show_queue(either_database) == [first[0], eve[0], last[0], first[1], last[1]]


def test_an_admin_may_put_a_run_before_another_users(either_database: Database) -> None:
    library = make_library(either_database)
    ada, eve = launch(either_database, library), launch(either_database, library, owner="user_eve")
    with either_database.writing() as session:
        service.move(session, ADA, eve[0], before=ada[0])
    assert show_queue(either_database) == [*eve, *ada]


@pytest.mark.parametrize("verb", ["pause", "release", "move", "set_priority", "send_to", "keep_off"])
def test_nobody_steers_another_users_run_but_an_admin(verb: str, database: Database, library: Library) -> None:
    ada, eve = launch(database, library)[0], launch(database, library, owner="user_eve")[0]
    beat(database, "here", "there")
    extra = {"set_priority": (-3,), "send_to": ("here",), "keep_off": ("here",)}.get(verb, ())
    steer = getattr(service, verb)
    with database.writing() as session:
        with pytest.raises(Forbidden, match="is Ada's: you may see and use it"):
            steer(session, EVE, ada, *extra)
        session.get_one(Run, ada).private = True
        with pytest.raises(NotFound, match="There is no run"):
            steer(session, EVE, ada, *extra)
        steer(session, EVE, eve, *extra)
        steer(session, ADA, eve, *extra)


@pytest.mark.parametrize("verb", ["pause", "release", "move", "set_priority", "send_to", "keep_off"])
def test_a_run_that_has_ended_is_not_steered(verb: str, database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    assert begin(database) == run_id
    end(database, run_id)
    beat(database, "here", "there")
    extra = {"set_priority": (-3,), "send_to": ("here",), "keep_off": ("here",)}.get(verb, ())
    with database.writing() as session, pytest.raises(Conflict, match=f"Run {run_id} (has ended|is succeeded)"):
        getattr(service, verb)(session, ADA, run_id, *extra)


def test_members_may_lower_a_priority_and_only_admins_raise_it_above_zero(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library, owner="user_eve")
    with database.writing() as session:
        assert service.set_priority(session, EVE, run_id, -5).priority == -5
        assert service.set_priority(session, EVE, run_id, 0).priority == 0
        with pytest.raises(Forbidden, match="Only an admin may raise a run above priority 0"):
            service.set_priority(session, EVE, run_id, 1)
        assert service.set_priority(session, ADA, run_id, 9).priority == 9
        assert service.set_priority(session, EVE, run_id, 4).priority == 4  # lower than what an admin gave
        for wrong in (101, -101):
            with pytest.raises(InvalidInput, match="from -100 to 100"):
                service.set_priority(session, ADA, run_id, wrong)


def test_a_place_before_a_run_that_cannot_be_is_refused_with_a_sentence(database: Database, library: Library) -> None:
    running, run_id, urgent = launch(database, library, 3)
    assert begin(database) == running
    with database.writing() as session:
        service.set_priority(session, ADA, urgent, 3)
        for before, error, sentence in [
            (running, Conflict, "is running, no longer queued"), (urgent, Conflict, "has priority 3"),
            (run_id, InvalidInput, "before itself"), ("run_none", InvalidInput, "no run 'run_none'"),
        ]:  # fmt: skip
            with pytest.raises(error, match=sentence):
                service.move(session, ADA, run_id, before=before)
        with pytest.raises(Conflict, match="only a queued run"):
            service.move(session, ADA, running, to="front")


def test_a_held_run_begins_when_it_is_released_at_its_old_place(either_database: Database) -> None:
    first, second = launch(either_database, make_library(either_database), 2)
    with either_database.writing() as session:
        service.pause(session, ADA, first)
        held_at = service.pause(session, ADA, first).held_at
    assert fetch(either_database, first).held_at == held_at  # asked twice, held once
    with either_database.reading() as session:
        assert queue.find_position(session, session.get_one(Run, first)) is None
        assert [queued.run.id for queued in queue.list_held(session)] == [first]
        assert [entry.payload["text"] for entry in journal.read(session, first, kinds=["log"])] == [
            "It was paused: it doesn't begin before it is released."
        ]
    assert told(either_database, first) == ["queued", "paused"]
    with either_database.writing() as session:
        service.release(session, ADA, first)
    assert told(either_database, first) == ["queued", "paused", "queued"]
    assert [begin(either_database), begin(either_database), begin(either_database)] == [first, second, None]


def test_a_running_run_that_is_paused_waits_held_and_no_failure_is_counted(either_database: Database) -> None:
    (run_id,) = launch(either_database, make_library(either_database))
    assert begin(either_database) == run_id
    with either_database.writing() as session:
        service.pause(session, ADA, run_id)
        assert runs.watch(session, [run_id])[run_id].release_wanted
    assert fetch(either_database, run_id).state == RunState.RUNNING
    assert end(either_database, run_id, Outcome.INTERRUPTED) == "queued"
    run = fetch(either_database, run_id)
    assert (run.num_failures, run.release_requested_at, run.held_at is None) == (0, None, False)
    assert begin(either_database) is None
    with either_database.writing() as session:
        entries = journal.read(session, run_id, kinds=["state"])
        assert [entry.payload["reason"] for entry in entries if entry.payload["state"] == "interrupted"] == ["It was paused."]
        service.release(session, ADA, run_id)
    assert told(either_database, run_id) == ["queued", "running", "interrupted", "paused", "queued"]
    assert begin(either_database) == run_id


def test_a_pause_that_comes_too_late_leaves_nothing_behind(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    assert begin(database) == run_id
    with database.writing() as session:
        service.pause(session, ADA, run_id)
    assert end(database, run_id) == "succeeded"
    assert (fetch(database, run_id).held_at, fetch(database, run_id).release_requested_at) == (None, None)


def test_cancelling_wins_over_pausing(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    assert begin(database) == run_id
    with database.writing() as session:
        service.pause(session, ADA, run_id)
        services.request_cancel(session, ADA.id, run_id)
    assert end(database, run_id, Outcome.INTERRUPTED) == "cancelled"
    with database.writing() as session:
        services.resume(session, ADA.id, run_id)
    assert begin(database) == run_id  # it isn't held any more
    with database.writing() as session:
        services.request_cancel(session, ADA.id, run_id)
        with pytest.raises(Conflict, match="is being cancelled"):
            service.pause(session, ADA, run_id)


def test_a_run_that_was_held_and_cancelled_is_not_held_any_more_when_it_is_resumed(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    with database.writing() as session:
        service.pause(session, ADA, run_id)
        services.request_cancel(session, ADA.id, run_id)
    with database.writing() as session:
        services.resume(session, ADA.id, run_id)
    assert begin(database) == run_id


def test_a_running_run_goes_to_another_worker_when_it_is_sent_there(either_database: Database) -> None:
    (run_id,) = launch(either_database, make_library(either_database))
    beat(either_database, "a", "b")
    assert begin(either_database, "a") == run_id
    with either_database.writing() as session:
        service.send_to(session, ADA, run_id, "a")
        assert not runs.watch(session, [run_id])[run_id].release_wanted  # it is there already
        service.send_to(session, ADA, run_id, "b")
        assert runs.watch(session, [run_id])[run_id].release_wanted
        service.send_to(session, ADA, run_id, None)
        assert not runs.watch(session, [run_id])[run_id].release_wanted  # taken back
        service.keep_off(session, ADA, run_id, "a")
    assert end(either_database, run_id, Outcome.INTERRUPTED) == "queued"
    assert begin(either_database, "a") is None
    assert begin(either_database, "b") == run_id
    assert fetch(either_database, run_id).avoided_worker == "a"  # until it is taken back


def test_a_run_that_is_sent_elsewhere_goes_there_also_when_an_older_wish_is_taken_back(either_database: Database) -> None:
    library = make_library(either_database)
    (run_id,) = launch(either_database, library)
    for worker in ("a", "b", "c"):
        beat(either_database, worker)
    with either_database.writing() as session:
        service.keep_off(session, ADA, run_id, "a")
    assert begin(either_database, "c") == run_id
    with either_database.writing() as session:
        service.send_to(session, ADA, run_id, "b")
        service.keep_off(session, ADA, run_id, None)
    assert fetch(either_database, run_id).release_requested_at is not None
    assert end(either_database, run_id, Outcome.INTERRUPTED) == "queued"
    assert begin(either_database, "c") is None
    assert begin(either_database, "b") == run_id


def test_wishes_for_what_is_not_there_are_refused_with_a_sentence(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    beat(database, "only")
    with database.writing() as session:
        with pytest.raises(InvalidInput, match="no worker 'nowhere'; known are: only"):
            service.send_to(session, ADA, run_id, "nowhere")
        with pytest.raises(Conflict, match="No worker but only is alive"):
            service.keep_off(session, ADA, run_id, "only")


def explain(database: Database, run_id: str) -> str:
    with database.reading() as session:
        return fleet.explain_wait(session.get_one(Run, run_id), list_workers(session), now(session))


def test_a_run_that_waits_says_what_for(database: Database, library: Library) -> None:
    (run_id,) = launch(database, library)
    assert explain(database, run_id) == "No worker is alive: it begins when one is started."
    beat(database, "a", "b")
    assert explain(database, run_id) == ""
    with database.writing() as session:
        service.send_to(session, ADA, run_id, "a")
    assert explain(database, run_id) == "It waits for worker a."
    with database.writing() as session:
        fleet.pause(session, ADA, "a")
    assert "waits for worker a, which is paused: resume it, or take the wish back" in explain(database, run_id)
    with database.writing() as session:
        session.get_one(Worker, "a").beat_at = now(session) - timedelta(minutes=5)
    assert "waits for worker a, which is not alive: start it, or take the wish back" in explain(database, run_id)
    with database.writing() as session:
        service.send_to(session, ADA, run_id, None)
        session.get_one(Worker, "a").beat_at = now(session)
        service.keep_off(session, ADA, run_id, "b")
    assert "Every worker that is alive but b, which it is to stay off, is paused" in explain(database, run_id)
    with database.writing() as session:
        session.delete(session.get_one(Worker, "a"))
    assert "stay off worker b, and no other is alive: start one, or take the wish back" in explain(database, run_id)
    with database.writing() as session:
        service.pause(session, ADA, run_id)
    assert explain(database, run_id) == "It is paused and begins when it is released."


def test_only_an_admin_pauses_workers_and_one_that_lives_is_not_forgotten(database: Database, library: Library) -> None:
    beat(database, "a")
    with database.writing() as session:
        for steer in (fleet.pause, fleet.resume, fleet.forget):
            with pytest.raises(Forbidden, match="Only an admin"):
                steer(session, EVE, "a")
            with pytest.raises(NotFound, match="no worker 'b'"):
                steer(session, ADA, "b")
        with pytest.raises(Conflict, match="Worker a is alive"):
            fleet.forget(session, ADA, "a")
        session.get_one(Worker, "a").beat_at = now(session) - timedelta(minutes=5)
        fleet.forget(session, ADA, "a")
        assert list_workers(session) == []


def test_a_paused_worker_takes_nothing_and_gives_back_its_runs_when_asked(either_database: Database) -> None:
    mine, other, next_one = launch(either_database, make_library(either_database), 3)
    beat(either_database, "a", "b")
    assert (begin(either_database, "a"), begin(either_database, "b")) == (mine, other)
    with either_database.writing() as session:
        fleet.pause(session, ADA, "a")
        assert not queue.has_next(session, "a")
        watched = runs.watch(session, [mine, other])
        assert [watched[run_id].release_wanted for run_id in (mine, other)] == [False, False]
        fleet.pause(session, ADA, "a", give_back=True)
        watched = runs.watch(session, [mine, other])
        assert [watched[run_id].release_wanted for run_id in (mine, other)] == [True, False]
    assert begin(either_database, "a") is None
    assert end(either_database, mine, Outcome.INTERRUPTED) == "queued"
    assert begin(either_database, "b") == mine  # at its old place, before the third
    with either_database.writing() as session:
        fleet.resume(session, ADA, "a")
    assert begin(either_database, "a") == next_one


def test_a_long_queue_is_looked_at_by_its_index(database: Database, library: Library) -> None:
    launch(database, library)
    with database.writing() as session:
        statement = queue.first_in_line(session, "worker", num_places=1, more_than=0)
        query = str(statement.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
        plan = " ".join(row.detail for row in session.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert "USING INDEX ix_runs_line (owner_id=?)" in plan
    assert "SCAN runs" not in plan
