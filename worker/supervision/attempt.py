"""One running attempt, watched: its spool goes into the journal, its lease is renewed, its end is judged.

While the database is away the runner goes on; its events wait in the spool and are caught up later.
"""

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.domain.errors import StaleToken, Unavailable
from app.domain.events import FindingRaised, OutcomeReached, SpoolLine
from app.domain.run import EXIT_STATUS, UNWRITTEN_STATUS, Outcome
from app.services import attempts, recordings
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from worker.running.failures import REMEDY_DISK_FULL
from worker.supervision.leases import LeaseKeeper, Liveness
from worker.supervision.process import RunnerProcess
from worker.supervision.sending import Delivery
from worker.supervision.spool_tail import SpoolTail, read_log_tail

RETRY_SECONDS = 1.0
MAX_ERRORS = 10
REMEDY_KILLED = (
    "If the machine ran out of memory: lower training.micro_batch_size, tokens.max_prompt or tokens.max_response, "
    "switch on policy.gradient_checkpointing, or take a smaller model."
)
FROZEN = "The runner was frozen from outside (SIGSTOP, or a debugger) for longer than a lease, so it was ended."
REMEDY_FROZEN = "Look for what stops processes on its machine."
REMEDY_SILENT = (
    "Look at the run's log and at its machine. If it does not go on, cancel the run (a runner that does not listen is killed), "
    "then resume it: it goes on from its last checkpoint."
)
UNWRITTEN = "The disk is full, or refuses to be written: not even the runner's last word could be kept."
OUTCOME_OF_STATUS = {status: outcome for outcome, status in EXIT_STATUS.items()}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How many seconds after a request the next stronger means is used."""

    cancel_terminate: float = 10.0  # after the cancel file: SIGTERM
    cancel_kill: float = 20.0  # after the cancel file: SIGKILL
    exit_kill: float = 30.0  # after its last word: SIGKILL


class RunningAttempt:
    """A claim, its process and its spool. `advance` is called again and again until it says that all is over."""

    def __init__(
        self, database: Database, settings: Settings, claim: attempts.Claim, process: RunnerProcess, folder: Path,
        patience: Patience, slots: Sequence[int] = (), delivery: Delivery | None = None,
    ) -> None:  # fmt: skip
        self.claim, self.slots = claim, tuple(slots)
        self.process, self._delivery = process, delivery
        self._database, self._settings, self._folder, self._patience = database, settings, folder, patience
        self._tail = SpoolTail(folder / "events.jsonl")
        self._liveness = Liveness(process.pid, frozen_seconds=settings.lease_seconds, silent_seconds=settings.silent_seconds)
        self._is_lost = False
        self._pending: list[SpoolLine] = []
        self._outcome: OutcomeReached | None = None
        self._lease = LeaseKeeper(database, settings, claim)
        self._retry_at = 0.0
        self._num_errors = 0
        self._recorded_bytes = 0
        self._whole_at = time.monotonic()  # when last all of the spool was recorded
        self._cancelled_at: float | None = None
        self._stopped_at: float | None = None
        self._ended_at: float | None = None
        self._gives_up_at: float | None = None  # waiting for its files to be delivered
        self.log = logging.LoggerAdapter(log, {"run_id": claim.run_id, "attempt": claim.attempt})

    def advance(self) -> bool:
        """Do what is due. True when the attempt is over and the run is in other hands, or ended."""
        status = self.process.poll()  # before reading: what it wrote until its end is then in the file
        if time.monotonic() < self._retry_at:
            self._press(status)
            return False
        try:
            self._record(drain=status is not None)
            if status is not None and self._is_delivered():
                self._conclude(status)
                self._end_delivery()
                return True
            if status is None:
                self._look_for_life()
            if self._lease.renew():
                self.cancel()
            self._num_errors = 0
        except StaleToken:
            self.log.warning("another attempt owns the run now: ending this one's runner")
            self.process.kill()
            self._end_delivery()
            return True
        except Unavailable as error:
            self.log.warning("the database is away, the runner goes on: %s", error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
        except Exception:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._num_errors += 1
            self.log.exception("the attempt can't be watched (%d of %d)", self._num_errors, MAX_ERRORS)
            if self._num_errors >= MAX_ERRORS:
                self.process.kill()  # its lease runs out, so another worker may try
                self._end_delivery()
                return True
        self._press(status)
        return False

    def describe(self) -> dict[str, Any]:
        """Return what the workers page shows of it; the lag is what the runner wrote and the journal doesn't have yet."""
        lag_bytes = max(0, self._tail.size_bytes - self._recorded_bytes)
        return {
            "run_id": self.claim.run_id,
            "attempt": self.claim.attempt,
            "slots": list(self.slots),
            "pid": self.process.pid,
            "spool_lag_bytes": lag_bytes,
            "spool_lag_seconds": round(time.monotonic() - self._whole_at, 3) if lag_bytes else 0.0,
        }

    def cancel(self) -> None:
        """Ask the runner to stop for good."""
        if self._cancelled_at is None:
            self._cancelled_at = time.monotonic()
            (self._folder / "cancel").touch()
            self.log.info("asked the runner to cancel")

    def stop(self) -> None:
        """Ask the runner to save and go: this worker stops, or the run is paused or sent to another."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self.process.terminate()
            self.log.info("asked the runner to save and stop")

    def kill_as_stale(self) -> None:
        """The run is in other hands: end the runner without a word."""
        self.log.warning("the run is in other hands now: ending this attempt's runner")
        self.process.kill()
        self._end_delivery()

    def _record(self, *, drain: bool) -> None:
        """One transaction per batch of lines; a batch that could not be written is tried again, not read again."""
        while True:
            self._pending = self._pending or list(self._tail.read())
            if not self._pending:
                self._whole_at = time.monotonic()
                return
            self._liveness.heard()
            with self._database.writing() as session:
                recordings.record(session, self.claim.run_id, self.claim.token, self._pending)
            if self._delivery is not None:
                self._delivery.note(self._pending)
            self._outcome = find_outcome(self._pending) or self._outcome
            if self._outcome is not None and self._ended_at is None:
                self._ended_at = time.monotonic()
            self._pending, self._recorded_bytes = [], self._tail.given_bytes
            if self._recorded_bytes >= self._tail.size_bytes:
                self._whole_at = time.monotonic()
            if not drain:
                return

    def _look_for_life(self) -> None:
        """End a runner that was frozen for a whole lease, as if its worker had died; tell of one that is only silent."""
        if self._liveness.is_lost() and not self._is_lost:
            self._is_lost = True
            self.log.warning("the runner is frozen: ending it, so that another attempt may go on")
            self.process.kill()
        elif (seconds := self._liveness.find_silence()) is not None:
            finding = FindingRaised(
                name="silent_runner", severity="warning", title="Nothing is heard of the runner",
                evidence=f"It has written nothing for {seconds:.0f} s, though its process lives.", remedy=REMEDY_SILENT,
            )  # fmt: skip
            with self._database.writing() as session:
                attempts.note(session, self.claim.run_id, self.claim.token, finding)

    def _is_delivered(self) -> bool:
        """Return whether all that the attempt has made is where everybody sees it; a request to go or to cancel ends the
        waiting.
        """
        if self._delivery is None or self._delivery.finish():
            return True
        if self._cancelled_at is not None and self._gives_up_at is None:
            self._gives_up_at = self._cancelled_at + self._patience.cancel_kill
        if self._stopped_at is not None and self._gives_up_at is None:
            self._gives_up_at = self._stopped_at + self._settings.grace_seconds
        return self._gives_up_at is not None and time.monotonic() > self._gives_up_at

    def _end_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.close()

    def _undelivered(self, outcome: OutcomeReached | None) -> OutcomeReached | None:
        """Return the outcome, or that of an attempt whose files are not in the store: it can't have succeeded."""
        if self._delivery is None or (self._delivery.finish() and not self._delivery.failure):
            return outcome
        if self._delivery.failure:
            return OutcomeReached(outcome=Outcome.FAILED, reason=self._delivery.failure)
        if self._cancelled_at is not None:
            return OutcomeReached(outcome=Outcome.CANCELLED)
        return OutcomeReached(outcome=Outcome.INTERRUPTED, reason="The worker was stopped before the run's files were stored.")

    def _press(self, status: int | None) -> None:
        """Use stronger means when a request was ignored for too long."""
        if status is not None:
            return
        if _passed(self._cancelled_at, self._patience.cancel_terminate):
            self.process.terminate()
        if (
            _passed(self._cancelled_at, self._patience.cancel_kill)
            or _passed(self._stopped_at, self._settings.grace_seconds)
            or _passed(self._ended_at, self._patience.exit_kill)
        ):
            self.log.warning("the runner does not stop: killing it")
            self.process.kill()

    def _conclude(self, status: int) -> None:
        """Give the run its state from the runner's last word, or from how the process ended."""
        self.process.kill()  # what it may have left of its group
        if self._tail.unread_bytes:
            self.log.warning("the runner's last line was never finished (%d bytes)", self._tail.unread_bytes)
        outcome = self._undelivered(self._outcome or self._guess_outcome(status))
        if outcome is not None and outcome.outcome is Outcome.INTERRUPTED and self._stopped_at is None:
            # Nobody here asked it to go. Counted as a failure, so that a runner that always goes can't go on forever.
            outcome = OutcomeReached(outcome=Outcome.FAILED, reason=f"The runner stopped: {outcome.reason or 'no reason given'}.")
        run_id, token, tries = self.claim.run_id, self.claim.token, self._settings.max_attempts
        tail = read_log_tail(self._folder / "log.txt")
        with self._database.writing() as session:
            if outcome is not None:
                state = attempts.finish(session, run_id, token, outcome, tail, max_attempts=tries)
            else:
                if status == -signal.SIGKILL and not self._is_lost:
                    tries = min(tries, attempts.MAX_ATTEMPTS_KILLED)
                reason, remedy = (FROZEN, REMEDY_FROZEN) if self._is_lost else explain(status)
                state = attempts.lose(session, run_id, token, reason, remedy=remedy, log_tail=tail, max_attempts=tries)
        self.log.info("the attempt is over (exit status %d): the run is %s", status, state.value)

    def _guess_outcome(self, status: int) -> OutcomeReached | None:
        """Return the outcome of a runner that could not say it: it was asked to go, or its exit status tells."""
        if self._cancelled_at is not None:
            return OutcomeReached(outcome=Outcome.CANCELLED)
        if self._stopped_at is not None:
            return OutcomeReached(outcome=Outcome.INTERRUPTED, reason="The worker was stopped.")
        if status == UNWRITTEN_STATUS:
            return OutcomeReached(outcome=Outcome.FAILED, reason=UNWRITTEN, remedy=REMEDY_DISK_FULL, retry=False)
        told = OUTCOME_OF_STATUS.get(status)
        return OutcomeReached(outcome=told) if told in (Outcome.CANCELLED, Outcome.INTERRUPTED) else None


def catch_up(database: Database, files: Files, claim: attempts.Claim) -> OutcomeReached | None:
    """Record what an earlier attempt's runner still wrote when nobody listened any more; its last word, if it had one.

    The checkpoint that the new attempt resumes from may be later than the last line its dead worker recorded.
    """
    if not claim.spool_attempt:
        return None
    tail = SpoolTail(files.attempt_dir(claim.run_id, claim.spool_attempt) / "events.jsonl")
    outcome = None
    while lines := tail.read():
        with database.writing() as session:
            recordings.record(session, claim.run_id, claim.token, lines)
        outcome = find_outcome(lines) or outcome
    return outcome


def find_outcome(lines: Sequence[SpoolLine]) -> OutcomeReached | None:
    """Return the runner's last word among these lines."""
    for line in lines:
        if line.kind == recordings.OUTCOME:
            try:
                return OutcomeReached.model_validate({**line.payload, "kind": line.kind})
            except ValidationError as error:
                log.warning("a runner's outcome can't be read: %s", error)
    return None


def explain(status: int) -> tuple[str, str]:
    """Reason and remedy, in sentences, of a runner that ended without a word."""
    if status == -signal.SIGKILL:
        return "The runner was killed from outside (SIGKILL): by a person, or by the system when memory ran out.", REMEDY_KILLED
    if status < 0:
        return f"The runner crashed with {signal.Signals(-status).name}.", "The end of its log may say more."
    if status == 0:
        return "The runner ended without saying how the run went.", "The end of its log may say more."
    return f"The runner crashed with exit status {status}.", "The end of its log says more."


def _passed(since: float | None, seconds: float) -> bool:
    return since is not None and time.monotonic() - since > seconds
