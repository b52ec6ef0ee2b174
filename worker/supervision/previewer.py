"""Previews on the worker's side: a thread beside the supervisor's claims them and asks a warm child process.

The child (`python -m worker.preview`) imports torch once, so that answers come at once; it reads one PreviewJob a line and
writes {"result": …} or {"error": {…}}. Runners may be busy meanwhile: a preview needs no GPU and takes seconds.
"""

import json
import logging
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from app.domain.errors import Unavailable
from app.domain.preview import PreviewResult
from app.services import previews
from app.services.previews import PreviewClaim
from app.settings import Settings
from app.store import previews as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.files.objects import Interruption
from app.store.files.shared_files import SharedFiles
from app.system.installation import module_command
from app.system.limits import count_cores
from worker.supervision.fetching import fetch_preview
from worker.supervision.process import SECRETS, kill_group

PREVIEW_COMMAND = tuple(module_command("worker.preview"))
POLL_SECONDS = 0.25  # with SQLite; with a server of its own every settings.poll_seconds, and at each hint
ANSWER_SECONDS = 60.0
LOOK_SECONDS = 0.2  # how often a waiting thread looks whether it shall stop
MAX_ANSWER_BYTES = 64 * 2**20
MAX_THREADS = 4
RECORD_TRIES = 5
JOIN_SECONDS = 20.0
PASSING = Unavailable("").code  # asked again, it may well be answered

log = logging.getLogger(__name__)


class ChildLost(Exception):
    """The previewing process gave no answer; the message is the sentence for the user."""


class ChildLeft(ChildLost):
    """It had just left, as it does after some idle minutes; another one can be asked."""


class Stopping(Interruption):
    """The worker stops while an answer is awaited."""


class PreviewingProcess:
    """The warm child: JSON lines in and out, CPU only, in a session of its own. It ends when its stdin does."""

    def __init__(self, command: Sequence[str]) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
        threads = str(min(MAX_THREADS, count_cores()))
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
        self._popen = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**kept, **limits, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self.pid = self._popen.pid

    @property
    def is_alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, job: str, seconds: float, meanwhile: Callable[[], None]) -> dict[str, Any]:
        """The answer to one job; `meanwhile` is called now and then, and may raise. Raises ChildLost."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(job.encode() + b"\n")
            self._popen.stdin.flush()
        except OSError:
            raise self._explain_end() from None
        line = self._read_line(time.monotonic() + seconds, meanwhile)
        try:
            answer = json.loads(line)
        except ValueError:
            raise ChildLost("The previewing process answered something that can't be read.") from None
        if not isinstance(answer, dict):
            raise ChildLost("The previewing process answered something that can't be read.")
        return answer

    def _read_line(self, deadline: float, meanwhile: Callable[[], None]) -> bytes:
        assert self._popen.stdout is not None
        line = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if time.monotonic() > deadline:
                    raise ChildLost("The preview took too long and was stopped: ask for fewer λ, presets or batch sizes.")
                if len(line) > MAX_ANSWER_BYTES:
                    raise ChildLost("The preview's answer is too large: ask for fewer λ, presets or batch sizes.")
                meanwhile()
                if selector.select(LOOK_SECONDS):
                    piece = os.read(self._popen.stdout.fileno(), 2**20)
                    if not piece:
                        raise self._explain_end()
                    line += piece
        return bytes(line)

    def _explain_end(self) -> ChildLost:
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(1)
        kind = ChildLeft if self._popen.poll() == 0 else ChildLost
        return kind(
            f"The previewing process ended without an answer (exit status {self._popen.poll()}), perhaps for memory: "
            "ask for fewer λ, presets or batch sizes, or look at the worker's log."
        )

    def stop(self) -> None:
        """End it, with all it started, and close its pipes."""
        kill_group(self.pid)
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


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
        self._child: PreviewingProcess | None = None
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

    def _answer(self, claim: PreviewClaim) -> None:
        renew_at = time.monotonic() + self.settings.heartbeat_seconds

        def meanwhile() -> None:
            nonlocal renew_at
            if self._stopping.is_set():
                raise Stopping
            if time.monotonic() > renew_at:
                renew_at = time.monotonic() + self.settings.heartbeat_seconds
                with suppress(Unavailable), self.database.writing() as session:
                    previews.renew(session, claim.preview_id, self.worker_id, self.settings.lease_seconds)

        try:
            if isinstance(self.files, SharedFiles):
                fetch_preview(self.files, claim.job, meanwhile)
            answer = self._ask(claim.job.model_dump_json(), meanwhile)
            result = PreviewResult.model_validate(answer["result"]) if "result" in answer else None
            error = None if result else read_error(answer.get("error"))
        except Stopping:
            self._record(lambda session: previews.give_back(session, claim.preview_id, self.worker_id))
            return
        except (ChildLost, Unavailable, OSError, ValidationError) as lost:
            log.warning("preview %s has no answer: %s", claim.preview_id, lost)
            self._end_child()
            sentence = (
                str(lost)
                if isinstance(lost, (ChildLost, Unavailable))
                else "The preview could not be computed: see the worker's log."
            )
            result, error = None, {"code": PASSING, "detail": sentence, "problems": []}
        if result is not None:
            kept = result
            self._record(lambda session: previews.finish(session, claim.preview_id, self.worker_id, kept))
        else:
            self._record(lambda session: previews.fail(session, claim.preview_id, self.worker_id, error or {}))

    def _ask(self, job: str, meanwhile: Callable[[], None]) -> dict[str, Any]:
        try:
            return self._warm_child().ask(job, self._answer_seconds, meanwhile)
        except ChildLeft:
            self._end_child()
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

    def _warm_child(self) -> PreviewingProcess:
        if self._child is not None and not self._child.is_alive:  # it has left after some idle minutes, or was killed
            self._end_child()
        if self._child is None:
            self._child = PreviewingProcess(self._command)
            log.info("started the previewing process %d", self._child.pid)
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None


def read_error(error: Any) -> dict[str, Any]:
    """What the child says is wrong, as the preview keeps it."""
    if not isinstance(error, dict) or not error.get("detail"):
        return {"code": PASSING, "detail": "The preview could not be computed: see the worker's log.", "problems": []}
    return {"code": str(error.get("code", "")), "detail": str(error["detail"]), "problems": list(error.get("problems") or [])}
