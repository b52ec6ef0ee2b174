"""The life of runs as a state machine: whatever workers, runners, users and time do, and in whatever order.

A plain model of a few dictionaries is kept beside the database; after every rule both must agree. What is held:

* one owner per token: a write with any other token changes nothing and raises StaleToken;
* final states are final until the user's explicit resume; the journal's states only move as app.domain.run.MOVES allows;
* `seq` is dense from 1 and equals `last_seq`; each line of a spool is in the journal once, in order;
* each (metric, step) is there once, with the value of the newest attempt that reached it;
* an attempt ends once, and at most one attempt of a run is open.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from app.domain.errors import Conflict, StaleToken
from app.domain.events import OutcomeReached, SpoolLine
from app.domain.run import Outcome, RunState, can_move, tell_state
from app.services import attempts, queue, recordings, workers
from app.services import runs as services
from app.services.acts import Actor
from app.store import journal
from app.store import runs as rows
from app.store.database import Database
from app.store.tables import Attempt, Metric, Run
from tests.conftest import Library, make_library
from tests.faults.clock import Clock

LEASE = 30.0
NUM_STEPS = 8
MAX_ATTEMPTS = 2
MOST_RUNS = 3
WORKERS = ("east", "west", "north")
PLACES = st.integers(0, 5)
RESUMABLE = (RunState.FAILED, RunState.CANCELLED)
NOW = "2026-01-31T12:00:00Z"


@dataclass
class Process:
    """A runner and the supervisor's view of it: `spool` is what it wrote, `told` how much of it was sent for recording."""

    claim: attempts.Claim
    worker: str
    is_settled: bool = False  # the earlier spool is recorded, this attempt's own one is open
    step: int = 0
    spool: list[SpoolLine] = field(default_factory=list)
    told: int = 0

    @property
    def has_said_its_last_word(self) -> bool:
        return bool(self.spool) and self.spool[-1].kind == "outcome"

    def write(self, kind: str, **payload: Any) -> None:
        self.spool.append(SpoolLine(n=len(self.spool) + 1, at=NOW, kind=kind, payload=payload))

    def take_step(self) -> None:
        self.step += 1
        self.write(
            "step", step=self.step, num_steps=NUM_STEPS, epoch=0.0, batch=0,
            metrics={"loss": 1.0 / self.step, "grad_norm": float(self.step)}, histogram=[],
        )  # fmt: skip


@dataclass
class Life:
    """What the model knows of one run."""

    state: RunState = RunState.QUEUED
    token: int = 0
    attempt: int = 0
    failures: int = 0
    lease_until: float = 0.0
    cancel_wanted: bool = False
    is_held: bool = False
    avoids: str = ""
    checkpoint: int = 0
    recorded: int = 0  # lines of the open spool that are in the journal
    spools: dict[int, Process] = field(default_factory=dict)  # by attempt
    open_spool: int = 0
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)

    noted: list[str] = field(default_factory=list)  # kinds of the runners' events in the journal

    def apply(self, lines: list[SpoolLine]) -> None:
        self.noted += [said.kind for said in lines if said.kind != "outcome"]
        for said in lines:
            if said.kind == "resume":
                self.metrics = {place: value for place, value in self.metrics.items() if place[1] <= said.payload["step"]}
            if said.kind == "step":
                self.metrics |= {(key, said.payload["step"]): value for key, value in said.payload["metrics"].items()}


class LifeOfRuns(RuleBasedStateMachine):
    """Subclasses say where a fresh, migrated and empty database comes from.

    Most rules are of processes that own their run, so that lives are long; `haunt` is of those that own it no more.
    """

    open_database: Callable[[], Iterator[Database]]

    @initialize()
    def open(self) -> None:
        self._opened = contextmanager(type(self).open_database)()
        self.database = self._opened.__enter__()
        self.clock = Clock(self.database)
        self.library: Library = make_library(self.database)
        self.lives: dict[str, Life] = {}
        self.processes: list[Process] = []
        self.paused: set[str] = set()
        self.admin = Actor(self.library.user.id, is_admin=True)
        for worker in WORKERS:
            self.beat(worker)
        self.launch()

    def teardown(self) -> None:
        if hasattr(self, "_opened"):
            self._opened.__exit__(None, None, None)

    # What the user does.

    @precondition(lambda self: len(self.lives) < MOST_RUNS)
    @rule()
    def launch(self) -> None:
        with self.database.writing() as session:
            run_id = services.launch(session, self.library.user.id, self.library.recipe()).id
        self.lives[run_id] = Life()

    @rule(place=PLACES)
    def cancel(self, place: int) -> None:
        """Whatever state the run is in."""
        self.cancel_run(*self.pick_run(place))

    @precondition(lambda self: self.owners())
    @rule(place=PLACES)
    def cancel_a_running_one(self, place: int) -> None:
        run_id = self.pick(self.owners(), place).claim.run_id
        self.cancel_run(run_id, self.lives[run_id])

    def cancel_run(self, run_id: str, life: Life) -> None:
        with self.refused_if(life.state.final), self.database.writing() as session:
            services.request_cancel(session, self.library.user.id, run_id)
        if life.state is RunState.QUEUED:
            life.state, life.is_held = RunState.CANCELLED, False
        elif life.state is RunState.RUNNING:
            life.cancel_wanted = True

    @rule(place=PLACES)
    def pause(self, place: int) -> None:
        """Hold the run; a running one is to be given back by its worker, with which it stays until then."""
        run_id, life = self.pick_run(place)
        must = life.state.final or (life.cancel_wanted and not life.is_held)
        with self.refused_if(must), self.database.writing() as session:
            queue.pause(session, self.admin, run_id)
        life.is_held = life.is_held or not must

    @precondition(lambda self: any(life.is_held for life in self.lives.values()))
    @rule(place=PLACES)
    def release(self, place: int) -> None:
        run_id, life = self.pick_run(place)
        with self.refused_if(life.state.final), self.database.writing() as session:
            queue.release(session, self.admin, run_id)
        life.is_held = False

    @rule(place=PLACES, worker=st.sampled_from([*WORKERS, ""]))
    def keep_off(self, place: int, worker: str) -> None:
        """Keep the run off a worker, or take that wish back."""
        run_id, life = self.pick_run(place)
        with self.refused_if(life.state.final), self.database.writing() as session:
            queue.keep_off(session, self.admin, run_id, worker or None)
        if not life.state.final:
            life.avoids = worker

    @rule(worker=st.sampled_from(WORKERS))
    def pause_or_resume_a_worker(self, worker: str) -> None:
        with self.database.writing() as session:
            (workers.resume if worker in self.paused else workers.pause)(session, self.admin, worker)
        self.paused ^= {worker}

    @precondition(lambda self: any(life.state in RESUMABLE for life in self.lives.values()))
    @rule(place=PLACES)
    def resume(self, place: int) -> None:
        """A user resumes what ended badly, and may try it on anything else."""
        run_id, life = self.pick_run(place)
        may = life.state in RESUMABLE
        with self.refused_if(not may), self.database.writing() as session:
            services.resume(session, self.library.user.id, run_id)
        if may:
            life.state, life.failures, life.cancel_wanted = RunState.QUEUED, 0, False

    # What a supervisor does.

    @rule(worker=st.sampled_from(WORKERS), settles=st.sampled_from([True, True, True, False]))
    def begin(self, worker: str, settles: bool) -> None:
        """Claim the next run; without `settles` the supervisor is slow, or dies, between the claim and its first write."""
        with self.database.writing() as session:
            claim = attempts.begin(session, worker, LEASE)
        queued = [life for life in self.lives.values() if life.state is RunState.QUEUED]
        waiting = [life for life in queued if not life.is_held and life.avoids != worker]
        assert (claim is not None) == bool(waiting and worker not in self.paused)
        if claim is None:
            return
        life = self.lives[claim.run_id]
        assert life in waiting
        assert (claim.token, claim.attempt) == (life.token + 1, life.attempt + 1)
        assert claim.spool_attempt == life.open_spool
        life.state, life.token, life.attempt = RunState.RUNNING, claim.token, claim.attempt
        life.lease_until = self.clock.shift + LEASE
        self.processes.append(Process(claim, worker))
        if settles:
            self.settle(self.processes[-1])

    def beat(self, worker: str) -> None:
        with self.database.writing() as session:
            attempts.beat(session, worker, hostname=worker, devices=[], slots=MOST_RUNS)

    @precondition(lambda self: any(not process.is_settled for process in self.owners()))
    @rule()
    def settle_late(self) -> None:
        self.settle(next(process for process in self.owners() if not process.is_settled))

    def settle(self, process: Process) -> None:
        """Record what the earlier attempt's runner still wrote; a success that nobody heard ends the run."""
        life, claim = self.lives[process.claim.run_id], process.claim
        earlier = life.spools.get(claim.spool_attempt)
        with self.database.writing() as session:
            recordings.record(session, claim.run_id, claim.token, earlier.spool if earlier else [])
            attempts.open_spool(session, claim)
        life.apply(earlier.spool[life.recorded :] if earlier else [])
        life.open_spool, life.recorded, life.spools[claim.attempt] = claim.attempt, 0, process
        process.is_settled = True
        if earlier is not None and earlier.has_said_its_last_word:
            self.finish(process, Outcome.SUCCEEDED, retry=False)
            return
        process.step = life.checkpoint
        if claim.attempt > 1:
            process.write("resume", attempt=claim.attempt, step=process.step, checkpoint="")

    @precondition(lambda self: self.owners())
    @rule(place=PLACES)
    def renew(self, place: int) -> None:
        self.renew_for(self.pick(self.owners(), place))

    def renew_for(self, process: Process) -> None:
        life = self.lives[process.claim.run_id]
        with self.refused_if_stale(process), self.database.writing() as session:
            wanted = attempts.renew(session, process.claim.run_id, process.claim.token, LEASE)
            assert wanted == life.cancel_wanted
        if self.owns(process):
            life.lease_until = self.clock.shift + LEASE

    @precondition(lambda self: any(process.spool for process in self.owners()))
    @rule(place=PLACES, again=st.booleans(), num_lines=st.integers(1, 20))
    def record(self, place: int, again: bool, num_lines: int) -> None:
        """Tell the database of the next lines; `again`: from the beginning, as a supervisor does that lost its answer."""
        process = self.pick([process for process in self.owners() if process.spool], place)
        first = 0 if again else process.told
        self.record_lines(process, first, process.spool[first : first + num_lines])

    def record_lines(self, process: Process, first: int, lines: list[SpoolLine]) -> None:
        life = self.lives[process.claim.run_id]
        if not lines:
            return
        with self.refused_if_stale(process), self.database.writing() as session:
            recordings.record(session, process.claim.run_id, process.claim.token, lines)
        if self.owns(process):
            life.apply(lines[max(0, life.recorded - first) :])
            life.recorded = max(life.recorded, first + len(lines))
            process.told = life.recorded

    @precondition(lambda self: self.owners())
    @rule(place=PLACES, outcome=st.sampled_from([Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED]), retry=st.booleans())
    def end(self, place: int, outcome: Outcome, retry: bool) -> None:
        self.finish(self.pick(self.owners(), place), outcome, retry)

    @precondition(lambda self: any(process.has_said_its_last_word for process in self.owners()))
    @rule()
    def succeed(self) -> None:
        """All that the runner wrote is recorded before the run is finished."""
        process = next(process for process in self.owners() if process.has_said_its_last_word)
        self.record_lines(process, process.told, process.spool[process.told :])
        self.finish(process, Outcome.SUCCEEDED, retry=False)

    def finish(self, process: Process, outcome: Outcome, retry: bool) -> None:
        life, claim = self.lives[process.claim.run_id], process.claim
        said = OutcomeReached(outcome=outcome, reason="so it went", retry=retry)
        state = None
        with self.refused_if_stale(process), self.database.writing() as session:
            state = attempts.finish(session, claim.run_id, claim.token, said, max_attempts=MAX_ATTEMPTS)
        if not self.owns(process):
            return
        if outcome is Outcome.INTERRUPTED:
            life.state = self.give_back(life)
        elif outcome is Outcome.FAILED and retry:
            self.lose_one(life)
        else:
            life.state, life.is_held = RunState(outcome.value), False
        assert state is life.state

    @precondition(lambda self: self.owners())
    @rule(place=PLACES)
    def lose(self, place: int) -> None:
        """The runner crashed, and its supervisor saw it."""
        self.lose_by(self.pick(self.owners(), place))

    def lose_by(self, process: Process) -> None:
        claim = process.claim
        with self.refused_if_stale(process), self.database.writing() as session:
            attempts.lose(session, claim.run_id, claim.token, "it crashed", max_attempts=MAX_ATTEMPTS)
        if self.owns(process):
            self.lose_one(self.lives[claim.run_id])

    @precondition(lambda self: any(not self.owns(process) for process in self.processes))
    @rule(place=PLACES, what=st.sampled_from(["renew", "record", "succeed", "fail", "lose", "settle"]))
    def haunt(self, place: int, what: str) -> None:
        """A supervisor that was frozen, or cut off, comes back and goes on as if it still owned the run."""
        ghost = self.pick([process for process in self.processes if not self.owns(process)], place)
        if what == "renew":
            self.renew_for(ghost)
        elif what == "record":
            self.record_lines(ghost, 0, ghost.spool)
        elif what == "settle":
            with self.refused_if_stale(ghost), self.database.writing() as session:
                attempts.open_spool(session, ghost.claim)
        elif what == "lose":
            self.lose_by(ghost)
        else:
            self.finish(ghost, Outcome.SUCCEEDED if what == "succeed" else Outcome.FAILED, retry=True)

    @rule(worker=st.sampled_from(WORKERS), spares=st.booleans())
    def reap(self, worker: str, spares: bool) -> None:
        """A living worker takes back what expired, but for its own, which it knows to be alive."""
        own = [process.claim.run_id for process in self.owners() if process.worker == worker]
        spare = own if spares else []
        expired = {
            run_id for run_id, life in self.lives.items()
            if life.state is RunState.RUNNING and life.lease_until < self.clock.shift and run_id not in spare
        }  # fmt: skip
        with self.database.writing() as session:
            taken = attempts.reap(session, max_attempts=MAX_ATTEMPTS, spare=spare)
        assert set(taken) == expired
        for run_id in expired:
            self.lose_one(self.lives[run_id])

    # What a runner does, whether anybody listens or not.

    @precondition(lambda self: any(process.is_settled for process in self.processes))
    @rule(place=PLACES, num_steps=st.integers(1, NUM_STEPS), saves=st.booleans())
    def work(self, place: int, num_steps: int, saves: bool) -> None:
        """Some steps, and perhaps a checkpoint: only where there is no newer attempt, whose folder makes a runner stop."""
        process = self.pick([process for process in self.processes if process.is_settled], place)
        life = self.lives[process.claim.run_id]
        for _ in range(min(num_steps, NUM_STEPS - process.step)):
            process.take_step()
        if saves and process.claim.attempt == life.attempt and process.step > life.checkpoint:
            life.checkpoint = process.step
            process.write("checkpoint", step=process.step, name=f"step-{process.step:06d}", size_bytes=1)
        if process.step == NUM_STEPS and not process.has_said_its_last_word:
            process.write("outcome", outcome="succeeded", summary={"loss": 1.0 / NUM_STEPS})

    # What time does.

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        """Workers beat on, whatever happens to their leases."""
        self.clock.advance(seconds)
        for worker in WORKERS:
            self.beat(worker)

    # What must hold whenever nobody is in the middle of something.

    @invariant()
    def rows_and_model_agree(self) -> None:
        """Of every run: its row, its journal, its metrics and its attempts, read in one session."""
        runs = list(self.lives)
        with self.database.reading() as session:
            found = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(runs)))}
            journals = {run_id: journal.read(session, run_id, limit=10_000) for run_id in runs}
            tries = list(session.scalars(select(Attempt).where(Attempt.run_id.in_(runs)).order_by(Attempt.number)))
            metrics = session.execute(select(Metric.run_id, Metric.key, Metric.step, Metric.value)).all()
            watched = rows.watch(session, runs)
        for run_id, life in self.lives.items():
            self.check_row(life, found[run_id])
            self.check_journal(life, found[run_id], journals[run_id])
            self.check_metrics(life, [tuple(rest) for owner, *rest in metrics if owner == run_id])
            self.check_attempts(life, [attempt for attempt in tries if attempt.run_id == run_id], watched.get(run_id))

    def check_row(self, life: Life, run: Run) -> None:
        assert (run.state, run.token, run.attempt, run.num_failures) == (life.state, life.token, life.attempt, life.failures)
        assert (run.finished_at is not None) == life.state.final
        assert (run.lease_expires_at is not None) == (life.state is RunState.RUNNING)
        assert (run.held_at is not None) == life.is_held
        assert run.release_requested_at is None or life.state is RunState.RUNNING

    def check_journal(self, life: Life, run: Run, entries: Sequence[Any]) -> None:
        """It is dense, and its states are a life."""
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert run.last_seq == len(entries)
        states = [RunState(entry.payload["state"]) for entry in entries if entry.kind == "state"]
        assert states[0] is RunState.QUEUED
        assert states[-1] is tell_state(life.state, is_held=life.is_held)
        assert all(can_move(old, new) for old, new in itertools.pairwise(without_pauses(states)))
        assert states.count(RunState.SUCCEEDED) <= 1
        assert [entry.kind for entry in entries if entry.kind not in ("state", "log")] == life.noted

    def check_metrics(self, life: Life, metrics: list[Any]) -> None:
        """Each is there once, with its newest value."""
        assert {(key, step): value for key, step, value in metrics} == life.metrics
        assert len(metrics) == len(life.metrics)
        if life.state is RunState.SUCCEEDED:
            assert {step for _, step in life.metrics} == set(range(1, NUM_STEPS + 1))

    def check_attempts(self, life: Life, attempts: list[Attempt], seen: rows.RunWishes | None) -> None:
        """At most one is open, and whoever watches the run sees that."""
        assert [attempt.number for attempt in attempts] == list(range(1, life.attempt + 1))
        is_open = [attempt.number for attempt in attempts if attempt.ended_at is None]
        assert is_open == ([life.attempt] if life.state is RunState.RUNNING else [])
        assert (seen is not None) == (life.state is RunState.RUNNING)
        if seen is not None:
            assert seen[:2] == (life.token, life.cancel_wanted)
            assert seen[2] or not life.is_held

    # The model's own steps.

    def owns(self, process: Process) -> bool:
        life = self.lives[process.claim.run_id]
        return life.token == process.claim.token and life.state is RunState.RUNNING

    def owners(self) -> list[Process]:
        return [process for process in self.processes if self.owns(process)]

    def pick(self, candidates: list[Process], place: int) -> Process:
        """The newest for 0, older ones for larger numbers."""
        return candidates[-1 - place % len(candidates)]

    def pick_run(self, place: int) -> tuple[str, Life]:
        return list(self.lives.items())[place % len(self.lives)]

    @contextmanager
    def refused_if_stale(self, process: Process) -> Iterator[None]:
        """The block must raise StaleToken just when the process does not own its run (any more)."""
        with self.refused_if(not self.owns(process), StaleToken):
            yield

    @contextmanager
    def refused_if(self, must: bool, kind: type[Conflict] = Conflict) -> Iterator[None]:
        try:
            yield
        except kind:
            assert must, "a rightful change was refused"
        else:
            assert not must, "a change was taken that must be refused"

    def give_back(self, life: Life) -> RunState:
        life.is_held = life.is_held and not life.cancel_wanted
        return RunState.CANCELLED if life.cancel_wanted else RunState.QUEUED

    def lose_one(self, life: Life) -> None:
        life.failures += 1
        may_go_on = life.failures < MAX_ATTEMPTS or life.cancel_wanted
        if may_go_on:
            life.state = self.give_back(life)
        else:
            life.state, life.is_held = RunState.FAILED, False


def without_pauses(states: Sequence[RunState]) -> list[RunState]:
    """The states without what holding and releasing a queued run told."""
    kept: list[RunState] = []
    for old, new in itertools.pairwise([None, *states]):
        assert new is not None
        waits = RunState.QUEUED if new is RunState.PAUSED else new
        if not (kept and kept[-1] is waits is RunState.QUEUED and RunState.PAUSED in (old, new)):
            kept.append(waits)
    return kept
