"""What a running attempt makes, on its way into the object store: a thread sends it while the supervisor watches the runner.

Nothing is sent before the journal has it, so whoever goes on from a checkpoint in the store finds all that came before. A
checkpoint is taken aside by a second name for its files the moment it is recorded: the runner may remove it while it is sent;
of several that wait only the newest is sent. While the store is away everything waits, and the runner goes on.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from app.domain.errors import StudioError, Unavailable
from app.domain.events import CheckpointSaved, ScoringKept, SpoolLine
from app.services.attempts import Claim
from app.services.recordings import read_event
from app.store.database import Database
from app.store.files.object_folders import Tree, list_files, put_folder, put_tree
from app.store.files.objects import Check, Interruption
from app.store.files.shared_files import SharedFiles
from app.store.scorings import keys_of
from app.store.tables import Run
from app.system.files import link_or_copy, remove_tree
from worker.supervision.spool_tail import SpoolTail

LOGS = ("metrics.jsonl", "samples.jsonl", "responses.jsonl")  # grown by every step: a resumed attempt goes on in them
LOG_SECONDS = 15.0
PARTS_SECONDS = 15.0  # between two looks at which parts of answers are there
RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 300.0  # with a store that is away, before a run goes back to the queue
MOST_RETRY_SECONDS = 30.0
MAX_ERRORS = 10
PARTS = "answers"  # below an attempt's key: the answers as far as it has come, until all are there
CARRIED = ".carried"  # in a run's folder here: all of it is in the store
OUTGOING = "outgoing"  # below the attempt's folder

log = logging.getLogger(__name__)


class Closed(Interruption):
    """The attempt is over or lost: what is under way is given up."""


class Delivery:
    """One attempt's files. `note` and `finish` return at once; the thread does the rest. `close` ends it."""

    def __init__(self, files: SharedFiles, claim: Claim, number: int | None = None) -> None:
        self._files, self._run_id = files, claim.run_id
        self._folder = files.attempt_dir(claim.run_id, number or claim.attempt)
        self._key = files.key_of(self._folder)
        self._keep = claim.keeps_checkpoints
        self._number = number or claim.attempt
        self._changed = threading.Condition()
        self._checkpoint: tuple[str, Path] | None = None
        self._artifacts: set[str] = set()
        self._scorings: set[str] = set()
        self._answers: set[str] = set()
        self._answers_id = claim.answers_id
        self._parts: Tree | None = None
        self._parts_at = time.monotonic()
        self._is_last = False
        self._delivered = False
        self._closed = False
        self._tree: Tree | None = None
        self._log_at, self._log_bytes = time.monotonic(), 0
        self.failure = ""  # a sentence: this will never be delivered
        self.log = logging.LoggerAdapter(log, {"run_id": claim.run_id, "attempt": self._number})
        self._thread = threading.Thread(target=self._run, name=f"delivery-{claim.run_id}", daemon=True)
        self._thread.start()

    def note(self, lines: Sequence[SpoolLine]) -> None:
        """Send what these lines, which the journal has now, speak of."""
        for line in lines:
            if line.kind == "artifact" and isinstance(line.payload.get("name"), str):
                self._want(self._artifacts, {line.payload["name"]})
            elif line.kind == "scoring" and isinstance(event := read_event(line), ScoringKept):
                self._want(self._scorings, keys_of(event.scoring))
            elif line.kind in ("answers", "judgement") and self._answers_id:
                self._want(self._answers, {self._answers_id})
            elif line.kind == "checkpoint" and isinstance(event := read_event(line), CheckpointSaved):
                self._take_aside(event.name)

    def finish(self) -> bool:
        """Send all that is left of a runner that has ended. True when it is in the store, or `failure` says why it won't be."""
        with self._changed:
            if not self._is_last:
                self._is_last = True
                self._changed.notify()
            return self._delivered or bool(self.failure)

    def close(self) -> None:
        """Give up what was not sent."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _want(self, waiting: set[str], names: set[str]) -> None:
        with self._changed:
            waiting |= names
            self._changed.notify()

    def _take_aside(self, name: str) -> None:
        source = self._files.checkpoints_dir(self._run_id) / name
        aside = self._folder / OUTGOING / name
        remove_tree(aside)
        try:
            for part, path in list_files(source).items():
                (aside / part).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, aside / part)
            for part in LOGS:
                path = self._files.artifacts_dir(self._run_id) / part
                if path.is_file():
                    shutil.copyfile(path, aside / f"log-{part}")
        except FileNotFoundError:  # the runner was faster and has removed it already: a newer one is coming
            remove_tree(aside)
            return
        with self._changed:
            before, self._checkpoint = self._checkpoint, (name, aside)
            self._changed.notify()
        if before is not None:
            remove_tree(before[1])

    def _run(self) -> None:
        num_errors, pause = 0, RETRY_SECONDS
        while (task := self._next()) is not None:
            try:
                task()
                num_errors, pause = 0, RETRY_SECONDS
            except Closed:
                break
            except FileNotFoundError as error:  # an artifact that was replaced or removed meanwhile; the end sends what is there
                self.log.info("not there any more, so not sent: %s", error.filename)
            except Unavailable as error:
                self.log.warning("what this attempt makes waits, the runner goes on: %s", error)
                self._wait(pause)
                pause = min(pause * 2, MOST_RETRY_SECONDS)
            except Exception:
                num_errors += 1
                self.log.exception("sending to the store failed (%d of %d)", num_errors, MAX_ERRORS)
                if num_errors >= MAX_ERRORS:
                    self.failure = "The run's files could not be put into the studio's store: see the worker's log."
                    break
                self._wait(RETRY_SECONDS)
        remove_tree(self._folder / OUTGOING)

    def _next(self) -> Callable[[], None] | None:
        """Return what is to be sent now, by its use to others; None at the end."""
        with self._changed:
            while not self._closed and not self._delivered:
                if self._scorings:
                    return self._send_scorings
                if self._answers:
                    return self._send_answers
                if self._checkpoint is not None:
                    return self._send_checkpoint
                if self._is_last:
                    return self._send_rest
                if self._artifacts:
                    return self._send_artifacts
                if time.monotonic() - self._log_at > LOG_SECONDS:
                    return self._send_log
                if self._answers_id and time.monotonic() - self._parts_at > PARTS_SECONDS:
                    return self._send_parts
                self._changed.wait(min(LOG_SECONDS, PARTS_SECONDS) / 3)
        return None

    def _wait(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)

    def _check(self) -> None:
        if self._closed:
            raise Closed

    @contextmanager
    def _taking(self, waiting: set[str]) -> Iterator[set[str]]:
        """Take what waits, before it is looked at: what changes while it is sent waits again, as does what could not be sent."""
        with self._changed:
            taken = set(waiting)
            waiting.clear()
        try:
            yield taken
        except BaseException:
            with self._changed:
                waiting |= taken
            raise

    def _send_scorings(self) -> None:
        with self._taking(self._scorings) as keys:
            for key in sorted(keys):
                folder = self._files.scoring_dir(key)
                if folder.is_dir():
                    put_folder(self._files.store, self._files.key_of(folder), folder, self._check)

    def _send_answers(self) -> None:
        with self._taking(self._answers) as ids:
            for answers_id in sorted(ids):
                folder = self._files.answers_dir(answers_id)
                put_folder(self._files.store, self._files.key_of(folder), folder, self._check)
            for number in range(1, self._number + 1):
                self._files.store.remove(parts_key(self._files, self._run_id, number))
            self._parts = None

    def _send_parts(self) -> None:
        """Whoever goes on elsewhere begins with these. They are this attempt's alone, so no later one's are written over."""
        self._parts_at = time.monotonic()
        files = list_files(self._files.answers_dir(self._answers_id or ""))
        key = parts_key(self._files, self._run_id, self._number)
        self._parts = put_tree(self._files.store, key, files, known=self._parts, check=self._check)

    def _send_checkpoint(self) -> None:
        with self._changed:
            waiting = self._checkpoint
        if waiting is None:
            return
        name, aside = waiting
        put_tree(self._files.store, f"{self._key}/checkpoints/{name}", list_files(aside), check=self._check)
        with self._changed:
            if self._checkpoint == waiting:  # no newer one has taken its place while it was sent
                self._checkpoint = None
        remove_tree(aside)
        self.log.info("checkpoint %s is in the store", name)
        self._remove_old_checkpoints()

    def _remove_old_checkpoints(self) -> None:
        """Beyond the newest `keep`; those of earlier attempts go when this one has as many of its own."""
        names = sorted(self._files.store.list_names(f"{self._key}/checkpoints"), key=_step_of)
        for name in names[: -self._keep]:
            self._files.store.remove(f"{self._key}/checkpoints/{name}")
        if len(names) >= self._keep:
            for number in range(1, self._number):
                earlier = self._files.key_of(self._files.attempt_dir(self._run_id, number))
                self._files.store.remove(f"{earlier}/checkpoints")

    def _send_artifacts(self) -> None:
        with self._taking(self._artifacts) as names:
            present = list_files(self._files.artifacts_dir(self._run_id))
            wanted = {*names, *(self._tree.files if self._tree else ())}
            self._put_artifacts({name: present[name] for name in wanted & present.keys()})

    def _put_artifacts(self, files: dict[str, Path]) -> None:
        self._tree = put_tree(self._files.store, f"{self._key}/artifacts", files, known=self._tree, check=self._check)

    def _send_log(self) -> None:
        path = self._folder / "log.txt"
        self._log_at = time.monotonic()
        if path.is_file() and path.stat().st_size != self._log_bytes:
            copy = self._folder / OUTGOING / "log.txt"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            self._files.store.put_file(copy, f"{self._key}/log.txt", self._check)
            self._log_bytes = copy.stat().st_size

    def _send_rest(self) -> None:
        self._put_artifacts(list_files(self._files.artifacts_dir(self._run_id)))
        self._send_log()
        (self._files.run_dir(self._run_id) / CARRIED).touch()
        with self._changed:
            self._delivered = True
        self.log.info("all that the attempt has made is in the store")


def parts_key(files: SharedFiles, run_id: str, number: int) -> str:
    """Return where an attempt puts answers before all of them are there."""
    return f"{files.key_of(files.attempt_dir(run_id, number))}/{PARTS}"


def deliver_all(delivery: Delivery, spool: Path, check: Check) -> None:
    """Send what an attempt has left whose supervisor is gone. Raises Unavailable when it can't be sent for long."""
    tail, deadline = SpoolTail(spool), time.monotonic() + PATIENCE_SECONDS
    while lines := tail.read():
        delivery.note(lines)
    while not delivery.finish():
        check()
        if time.monotonic() > deadline:
            raise Unavailable("The run's files can't be put into the studio's store: it is away for too long.")
        time.sleep(0.1)
    if delivery.failure:
        raise StudioError(delivery.failure)


def sweep_carried(database: Database, files: SharedFiles) -> int:
    """Remove from this host what is in the store of runs that have ended. Returns how many runs that were."""
    carried = {path.parent.name for path in (files.root / "runs").glob(f"*/{CARRIED}")}
    with database.reading() as session:
        going_on = set(session.scalars(select(Run.id).where(Run.id.in_(carried), Run.finished_at.is_(None))))
    for run_id in carried - going_on:
        for name in ("checkpoints", "artifacts", "attempts", CARRIED):
            remove_anything(files.run_dir(run_id) / name)
    return len(carried - going_on)


def remove_anything(path: Path) -> None:
    """A folder or a file; one that isn't there is no error."""
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def _step_of(name: str) -> int:
    digits = name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1
