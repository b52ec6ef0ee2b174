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
from app.store.files.shared_files import SharedFiles
from app.system.child import Child, ReplyLost
from app.system.files import never
from app.system.installation import limit_threads, module_command
from app.system.limits import count_cores
from worker.supervision.attendant import LOOK_SECONDS, Attendant, Stopping, Unwanted
from worker.supervision.fetching import fetch_preview
from worker.supervision.process import inherit_without_secrets

PREVIEW_COMMAND = tuple(module_command("worker.preview"))
ANSWER_SECONDS = 60.0
MAX_THREADS = 4
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


def start_child(command: Sequence[str]) -> Child:
    """Start the warm child, without a GPU and without secrets."""
    limits = limit_threads(min(MAX_THREADS, count_cores()))
    return Child(command, {**inherit_without_secrets(), **limits, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"})


class Previewer(Attendant):
    """The thread that claims previews, and asks for their answers."""

    what = "previews"

    def __init__(
        self, settings: Settings, database: Database, files: Files, worker_id: str, *,
        command: Sequence[str] = PREVIEW_COMMAND, hinted: threading.Event | None = None, answer_seconds: float = ANSWER_SECONDS,
        asked: Callable[[], None] = never,
    ) -> None:  # fmt: skip
        """`asked` is called when somebody is about to ask for a preview, or asks."""
        super().__init__(settings, database, files, worker_id, hinted)
        self._command, self._answer_seconds, self._asked = tuple(command), answer_seconds, asked

    def _start_child(self) -> Child:
        return start_child(self._command)

    def _warm_up(self) -> None:
        super()._warm_up()
        self._asked()

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
