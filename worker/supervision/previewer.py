"""Previews on the worker's side: a thread beside the supervisor's claims them and asks a warm child process.

The child (`python -m worker.preview`) imports torch once, so that answers come at once; it reads one PreviewJob or ReadingJob
a line and writes {"result": …} or {"error": {…}}. Runners may be busy meanwhile: a preview needs no GPU and takes seconds.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from app.domain.errors import Unavailable
from app.domain.preview.readings import AnyReading, ReadingJob, parse_reading
from app.domain.preview.weights import PreviewJob, PreviewResult
from app.services import previews
from app.services.previews import PreviewClaim
from app.settings import Settings
from app.store import previews as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.files.objects import Interruption
from app.store.files.shared_files import SharedFiles
from app.system.child import Child, ReplyLost
from app.system.installation import inherit_environment, module_command
from app.system.limits import count_cores
from worker.supervision.fetching import fetch_preview
from worker.supervision.process import SECRETS

PREVIEW_COMMAND = tuple(module_command("worker.preview"))
POLL_SECONDS = 0.25  # with SQLite; with a server of its own every settings.poll_seconds, and at each hint
ANSWER_SECONDS = 60.0
MAX_THREADS = 4
LOOK_SECONDS = 0.5  # how often an awaited preview is looked up: it may have been deleted
RECORD_TRIES = 5
JOIN_SECONDS = 20.0
LESS = "ask for fewer λ, presets or batch sizes"
SHORTER = "look at a shorter text or a smaller data set"
LOST = {
    "ended": "The previewing process ended without an answer (exit status {status}), perhaps for memory: {less}, or look at "
    "the worker's log.",
    "late": "The preview took too long and was stopped: {less}.",
    "large": "The preview's answer is too large: {less}.",
    "unreadable": "The previewing process answered something that can't be read.",
}
UNEXPECTED = "The preview could not be computed: see the worker's log."
PASSING = Unavailable("").code  # asked again, it may well be answered

log = logging.getLogger(__name__)


class Stopping(Interruption):
    """The worker stops while an answer is awaited."""


class Unwanted(Interruption):
    """What the preview is of was deleted while its answer was awaited, or another worker has taken it."""


def start_child(command: Sequence[str]) -> Child:
    """Start the warm child, without a GPU and without secrets."""
    kept = {name: value for name, value in inherit_environment().items() if name not in SECRETS}
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(min(MAX_THREADS, count_cores())))
    return Child(command, {**kept, **limits, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"})


class Previewer:
    """The thread: claims previews one after the other, as long as the worker lives."""

    def __init__(
        self, settings: Settings, database: Database, files: Files, worker_id: str, *,
        command: Sequence[str] = PREVIEW_COMMAND, hinted: threading.Event | None = None, answer_seconds: float = ANSWER_SECONDS,
    ) -> None:  # fmt: skip
        self.settings, self.database, self.files, self.worker_id = settings, database, files, worker_id
        self._command, self._answer_seconds = tuple(command), answer_seconds
        self._poll_seconds = POLL_SECONDS if database.is_sqlite else settings.poll_seconds
        self._hinted = hinted or threading.Event()
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end its child and itself; a preview under way goes back to the queue."""
        self._stopping.set()
        self._hinted.set()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._hinted.is_set():  # somebody previews, or is about to: be warm
                    self._hinted.clear()
                    self._warm_child()
                self._answer_all()
            except Unavailable as error:
                log.warning("previews: %s", error)
                self._stopping.wait(1)
            except Exception:
                log.exception("previewing failed; it is tried again")
                self._stopping.wait(1)
            self._hinted.wait(self._poll_seconds)
        self._end_child()

    def _answer_all(self) -> None:
        while not self._stopping.is_set() and (claim := self._claim()) is not None:
            self._answer(claim)

    def _claim(self) -> PreviewClaim | None:
        with self.database.reading() as session:  # so that an idle worker never takes the write lock
            if not store.has_claimable(session, now(session)):
                return None
        with self.database.writing() as session:
            return previews.begin(session, self.files, self.worker_id, self.settings.lease_seconds)

    def _attend(self, preview_id: str) -> Callable[[], None]:
        """Return what is called while an answer is awaited: it renews the lease. It raises Stopping, and Unwanted."""
        renew_at = time.monotonic() + self.settings.heartbeat_seconds
        look_at = time.monotonic() + LOOK_SECONDS

        def meanwhile() -> None:
            nonlocal renew_at, look_at
            if self._stopping.is_set():
                raise Stopping
            if time.monotonic() > renew_at:
                renew_at = time.monotonic() + self.settings.heartbeat_seconds
                with suppress(Unavailable), self.database.writing() as session:
                    previews.renew(session, preview_id, self.worker_id, self.settings.lease_seconds)
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                with suppress(Unavailable), self.database.reading() as session:
                    if not store.is_held(session, preview_id, self.worker_id):
                        raise Unwanted

        return meanwhile

    def _answer(self, claim: PreviewClaim) -> None:
        meanwhile = self._attend(claim.preview_id)
        try:
            if isinstance(self.files, SharedFiles):
                fetch_preview(self.files, claim.job, meanwhile)
            answer = self._ask(claim.job.model_dump(mode="json"), meanwhile)
            result = read_result(claim.job, answer["result"]) if "result" in answer else None
            error = None if result else read_error(answer.get("error"))
        except Stopping:
            self._record(lambda session: previews.give_back(session, claim.preview_id, self.worker_id))
            return
        except Unwanted:
            log.info("preview %s is wanted no more", claim.preview_id)
            self._end_child()
            return
        except (ReplyLost, Unavailable, OSError, ValidationError) as lost:
            log.warning("preview %s has no answer: %s", claim.preview_id, lost)
            self._end_child()
            result, error = None, {"code": PASSING, "detail": describe_loss(lost, claim.job), "problems": []}
        if result is not None:
            kept = result
            self._record(lambda session: previews.finish(session, claim.preview_id, self.worker_id, kept))
        else:
            self._record(lambda session: previews.fail(session, claim.preview_id, self.worker_id, error or {}))

    def _ask(self, job: dict[str, Any], meanwhile: Callable[[], None]) -> dict[str, Any]:
        try:
            return self._warm_child().ask(job, self._answer_seconds, meanwhile)
        except ReplyLost as lost:
            if (lost.why, lost.status) != ("ended", 0):
                raise
        self._end_child()  # it had just left, as it does after some idle minutes
        return self._warm_child().ask(job, self._answer_seconds, meanwhile)

    def _record(self, write: Callable[[Any], bool]) -> None:
        """A few tries: seconds of computing should not be lost to a database that is locked for one."""
        for attempt in range(RECORD_TRIES):
            try:
                with self.database.writing() as session:
                    write(session)
            except Unavailable:
                if attempt == RECORD_TRIES - 1:
                    raise
                self._stopping.wait(0.5)
            else:
                return

    def _warm_child(self) -> Child:
        if self._child is not None and not self._child.alive:  # it has left after some idle minutes, or was killed
            self._end_child()
        if self._child is None:
            self._child = start_child(self._command)
            log.info("started the previewing process %d", self._child.pid)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None


def read_result(job: PreviewJob | ReadingJob, result: Any) -> PreviewResult | AnyReading:
    """Return a job's answer; raises ValidationError."""
    return parse_reading(job.request, result) if isinstance(job, ReadingJob) else PreviewResult.model_validate(result)


def describe_loss(lost: Exception, job: PreviewJob | ReadingJob) -> str:
    """Return why a preview has no answer, as a sentence."""
    if isinstance(lost, ReplyLost):
        return LOST[lost.why].format(status=lost.status, less=SHORTER if isinstance(job, ReadingJob) else LESS)
    return str(lost) if isinstance(lost, Unavailable) else UNEXPECTED


def read_error(error: Any) -> dict[str, Any]:
    """Return what the child says is wrong, as the preview keeps it."""
    if not isinstance(error, dict) or not error.get("detail"):
        return {"code": PASSING, "detail": UNEXPECTED, "problems": []}
    return {"code": str(error.get("code", "")), "detail": str(error["detail"]), "problems": list(error.get("problems") or [])}
