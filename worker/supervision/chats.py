"""Chats on the worker's side: a thread beside the supervisor's claims them and has a warm child process answer.

The child (`python -m worker.chat`) keeps models in memory, on a device that no run has. A run that begins there has it at once:
the child is killed, and the chat goes back to the queue, to begin again with the same words once there is room.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from app.domain.answering.answers import RunModel
from app.domain.answering.chat import ChatEvent, ChatJob, Ended, parse_event
from app.domain.errors import StudioError, Unavailable
from app.services.answering import chats
from app.services.answering.chats import ChatClaim
from app.settings import Settings
from app.store.answering import chats as store
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.files.shared_files import SharedFiles
from app.store.tables import Chat
from app.system.child import Child, ReplyLost
from app.system.installation import limit_threads, module_command
from app.system.limits import count_cores
from worker.supervision.attendant import Attendant, Stopping, Unwanted
from worker.supervision.fetching import fetch_models, fetch_step
from worker.supervision.process import inherit_without_secrets

CHAT_COMMAND = tuple(module_command("worker.chat"))
SILENT_SECONDS = 900.0  # between two words of the child: a large model takes minutes to download and load
LOOK_SECONDS = 0.2  # how often a chat is looked up that is being answered: somebody may want it to stop
HUSH_SECONDS = 15.0
KILL_SECONDS = 10.0
TAKEN = "A run has taken the device."
STOPPED = "The worker was stopped."
LOST = {
    "ended": "The chatting process ended without an answer (exit status {status}), perhaps for memory: choose smaller models, or "
    "look at the worker's log.",
    "late": "The chatting process said nothing for too long and was stopped: choose smaller models, or look at the worker's log.",
    "large": "The answer is too large to be kept: ask for shorter ones.",
    "unreadable": "The chatting process answered something that can't be read: see the worker's log.",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """A device that no run has; `visible`: which GPU, as CUDA_VISIBLE_DEVICES names it."""

    device: Literal["cpu", "cuda"] = "cpu"
    visible: str = ""


class Chats(Attendant):
    """The thread that claims chats while there is room, and records what is said."""

    what = "chats"

    def __init__(
        self, settings: Settings, database: Database, files: Files, worker_id: str, *,
        command: Sequence[str] = CHAT_COMMAND, hinted: threading.Event | None = None, silent_seconds: float = SILENT_SECONDS,
    ) -> None:  # fmt: skip
        super().__init__(settings, database, files, worker_id, hinted)
        limits = (f"{settings.chat_idle_seconds:g}", str(settings.runner_memory_bytes))
        self._command, self._silent_seconds = (*command, *limits), silent_seconds
        self._room: Room | None = None
        self._lock = threading.Lock()  # around the room and the child's start

    def give_room(self, rooms: Sequence[Room]) -> None:
        """Say which devices no run has; a child on another one is ended before this returns. Called by the supervisor."""
        with self._lock:
            if self._room is not None and self._room in rooms:
                return
            self._room = rooms[-1] if rooms else None
            child = self._child
        if child is not None and child.alive:
            log.info("chats: a run takes the device of process %d", child.pid)
            child.kill()
            child.wait(KILL_SECONDS)

    def _start_child(self) -> Child:
        room = self._room
        assert room is not None
        given = {**limit_threads(self.settings.runner_threads or count_cores()), "CUDA_VISIBLE_DEVICES": room.visible}
        return Child(self._command, {**inherit_without_secrets(), **given, "PYTHONUNBUFFERED": "1"})

    def _find_child(self) -> tuple[Child, Room]:
        """Return the warm child and where it is. Raises RoomTaken."""
        with self._lock:
            if self._room is None:
                raise RoomTaken
            return self._warm_child(), self._room

    def _warm_up(self) -> None:
        with suppress(RoomTaken):
            self._find_child()

    def _answer_all(self) -> None:
        while not self._stopping.is_set() and self._room is not None and (claim := self._claim()) is not None:
            self._answer(claim)

    def _claim(self) -> ChatClaim | None:
        with self.database.reading() as session:  # so that an idle worker never takes the write lock
            if not store.has_claimable(session, now(session), self.worker_id):
                return None
        with self.database.writing() as session:
            if self._room is None:  # taken while the write lock was waited for
                return None
            return chats.begin(session, self.worker_id, self.settings.lease_seconds)

    def _answer(self, claim: ChatClaim) -> None:
        detail = ""
        try:
            self._follow(claim)
            return
        except Unwanted:
            log.info("chat %s is wanted no more", claim.chat_id)
            self._hush()
            return
        except Stopping:
            detail = STOPPED
        except RoomTaken:
            detail = TAKEN
        except StudioError as error:
            failure = error.detail
        except (ReplyLost, OSError, ValidationError) as lost:
            log.warning("chat %s has no answer: %s", claim.chat_id, lost)
            self._end_child()
            failure = LOST[lost.why].format(status=lost.status) if isinstance(lost, ReplyLost) else LOST["unreadable"]
        if detail:
            self._end_child()
            self._record(lambda session: chats.give_back(session, claim, detail))
        else:
            self._record(lambda session: chats.tell(session, claim, [Ended(state="failed", detail=failure)]))

    def _follow(self, claim: ChatClaim) -> None:
        """Record what the child says, up to its last word. Raises Unwanted, Stopping, RoomTaken, ReplyLost, StudioError."""
        child, room = self._find_child()
        meanwhile = self._attend(claim, child)
        with self.database.reading() as session:
            job = chats.build_job(session, self.files, claim, room.device)
        if isinstance(self.files, SharedFiles):
            self._fetch(self.files, job, meanwhile)
        try:
            for events in self._listen(child, job, meanwhile):
                if not self._record(lambda session, told=events: chats.tell(session, claim, told)):  # type: ignore[misc]
                    raise Unwanted
                if any(isinstance(event, Ended) for event in events):
                    return
        except ReplyLost:
            if self._room is not room:  # an equal one may have been given since
                raise RoomTaken from None
            raise

    def _fetch(self, files: SharedFiles, job: ChatJob, meanwhile: Callable[[], None]) -> None:
        sources = [*(model.source for model in job.models), *([job.reward.source] if job.reward else [])]
        fetch_models(files, [Path(source.path) for source in sources if source.source == "folder"], meanwhile)
        for choice in job.request.models:
            if isinstance(choice, RunModel):
                fetch_step(self.database, files, choice, meanwhile)

    def _listen(self, child: Child, job: ChatJob, meanwhile: Callable[[], None]) -> Iterator[list[ChatEvent]]:
        try:
            replies = child.follow(job.model_dump(mode="json"), self._silent_seconds, meanwhile)
            first = next(replies)
        except ReplyLost as lost:
            if (lost.why, lost.status) != ("ended", 0):
                raise
            self._end_child()  # it had just left, as it does after some idle minutes
            child, _ = self._find_child()
            replies = child.follow(job.model_dump(mode="json"), self._silent_seconds, meanwhile)
            first = next(replies)
        yield read_events(first)
        yield from map(read_events, replies)

    def _attend(self, claim: ChatClaim, child: Child) -> Callable[[], None]:
        """Return what is called while the child speaks: it renews the lease, and passes on that somebody wants it to stop.

        It raises Stopping, Unwanted and RoomTaken.
        """
        renew_at = time.monotonic() + self.settings.heartbeat_seconds
        look_at = 0.0
        is_told = False

        def meanwhile() -> None:
            nonlocal renew_at, look_at, is_told
            if self._stopping.is_set():
                raise Stopping
            if time.monotonic() > renew_at:
                renew_at = time.monotonic() + self.settings.heartbeat_seconds
                with suppress(Unavailable), self.database.writing() as session:
                    chats.renew(session, claim, self.settings.lease_seconds)
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_SECONDS
                if self._is_to_stop(claim) and not is_told:
                    is_told = True
                    self._say_stop(child)

        return meanwhile

    def _is_to_stop(self, claim: ChatClaim) -> bool:
        """Raises Unwanted when the chat is in other hands, or gone."""
        with suppress(Unavailable), self.database.reading() as session:
            chat = session.get(Chat, claim.chat_id)
            if chat is None or chat.token != claim.token or chat.state != store.ANSWERING:
                raise Unwanted
            return chat.stop_requested_at is not None
        return False

    def _say_stop(self, child: Child) -> None:
        (self._child or child).tell({"stop": True}, HUSH_SECONDS)

    def _hush(self) -> None:
        """Let the child come to an end with what nobody wants; one that doesn't is ended itself."""
        child = self._child
        if child is None:
            return
        self._say_stop(child)
        try:
            for reply in child.follow(None, HUSH_SECONDS):
                if any(isinstance(event, Ended) for event in read_events(reply)):
                    return
        except (ReplyLost, ValidationError):
            self._end_child()


class RoomTaken(Exception):
    """A run has taken the device that chats were answered on."""


def read_events(reply: dict[str, Any]) -> list[ChatEvent]:
    """Return what the child says; raises ValidationError."""
    return [parse_event(event) for event in reply.get("events") or [{}]]
