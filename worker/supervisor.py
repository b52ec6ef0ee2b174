"""The supervisor: claims runs, gives each a runner process, watches them, and takes back what dead workers left.

One thread, one loop, no torch. A hint wakes it; without any hint it looks by itself every `poll_seconds`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from app import logs
from app.domain.errors import RecipeInvalid, StudioError, Unavailable
from app.domain.events import OutcomeReached
from app.domain.jobs import FAST_PATHS
from app.domain.run import Outcome, describe_shortage
from app.services import attempts, provenance
from app.services.keeping import retention
from app.settings import Settings
from app.store import queue, runs, workers
from app.store.database import Database, now
from app.store.files.files import Files, write_atomic
from app.store.files.shared_files import SharedFiles
from app.system.files import remove_unfinished
from app.system.installation import module_command
from worker.running.failures import REMEDY_DISK_FULL, is_disk_full, remedy_of
from worker.supervision.attempt import Patience, RunningAttempt, catch_up
from worker.supervision.attendant import Attendant
from worker.supervision.chats import CHAT_COMMAND, Chats, Room
from worker.supervision.devices import Device, UsageWatch, list_gpus
from worker.supervision.fast_paths import find_obstacles
from worker.supervision.fetching import Arrival
from worker.supervision.leases import LeaseJudge
from worker.supervision.previewer import PREVIEW_COMMAND, Previewer
from worker.supervision.process import RunnerProcess, kill_leftovers
from worker.supervision.sending import Delivery, sweep_carried
from worker.supervision.slots import Slots
from worker.supervision.standby import SETTLE_SECONDS, Standby
from worker.supervision.timer import Timer

RUNNER_COMMAND = tuple(module_command("worker.runner"))
TICK_SECONDS, IDLE_TICK_SECONDS = 0.1, 0.25
WATCH_SECONDS = 0.5
PRUNE_SECONDS = 600.0

log = logging.getLogger(__name__)


def name_worker(settings: Settings) -> str:
    """By which this process is known."""
    return settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"


class Supervisor:
    """`run` blocks until `stop` was called and every runner is gone. Both `stop` and `wake` may come from any thread."""

    def __init__(
        self, settings: Settings, database: Database, files: Files, *,
        runner_command: Sequence[str] = RUNNER_COMMAND, patience: Patience | None = None, hinted: threading.Event | None = None,
        preview_command: Sequence[str] = PREVIEW_COMMAND, previews_hinted: threading.Event | None = None,
        chat_command: Sequence[str] = CHAT_COMMAND, chats_hinted: threading.Event | None = None,
        gpus: Sequence[Device] | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.database, self.files = settings, database, files
        self.worker_id = name_worker(settings)
        self._command, self._patience = tuple(runner_command), patience or Patience()
        self._slots = Slots(settings, list_gpus() if gpus is None else gpus)
        self._usage, self._off = UsageWatch(self._slots.gpus), find_obstacles(bool(self._slots.gpus))
        is_ours = self._command == RUNNER_COMMAND  # another program may not know how to wait
        self.standby = Standby(self._command, settings.warm_runner_seconds if is_ours else 0)
        self._running: dict[int, RunningAttempt | Arrival] = {}  # by its first slot
        self._hinted = hinted or threading.Event()
        self._previewer = Previewer(
            settings, database, files, self.worker_id,
            command=preview_command, hinted=previews_hinted, asked=self.standby.want,  # whoever looks at weights may launch
        )  # fmt: skip
        self._chats = Chats(settings, database, files, self.worker_id, command=chat_command, hinted=chats_hinted)
        self._beside: tuple[Attendant, ...] = (self._previewer, self._chats)
        self._stopping = threading.Event()
        self._started_at: datetime | None = None
        self._is_full = False
        self._pruning: threading.Thread | None = None
        self._beat = Timer(settings.heartbeat_seconds)
        self._poll = Timer(settings.poll_seconds)
        self._watch = Timer(WATCH_SECONDS)
        self._prune = Timer(PRUNE_SECONDS)
        # After a start, and after the database was away, owners get a whole lease to renew before anything is reaped.
        self._reap = Timer(settings.heartbeat_seconds, first=max(0.0, settings.lease_seconds - settings.heartbeat_seconds))
        self._leases = LeaseJudge(settings.heartbeat_seconds)  # its first look, above, only sets its clock

    def wake(self) -> None:
        """Look at the database now."""
        self._hinted.set()

    def stop(self) -> None:
        """Take no more runs; runners save and stop, their runs go back to the queue."""
        self._stopping.set()
        for attendant in self._beside:
            attendant.stop()
        self._hinted.set()

    def run(self) -> None:
        """Go round the loop; return when it was stopped and all runners are gone."""
        log.info("worker %s: %d slots, %s", self.worker_id, self._slots.num_slots, self._slots.gpus or "CPU only")
        for name, reason in self._off.items():
            log.info("%s is off here: %s", FAST_PATHS[name], reason)
        self._share_room()
        for attendant in self._beside:
            attendant.start()
        self._usage.start()
        while self._running or not self._stopping.is_set():
            hinted = self._hinted.is_set()
            self._hinted.clear()
            self._tick(hinted)
            self._hinted.wait(TICK_SECONDS if self._running else IDLE_TICK_SECONDS)
        for attendant in self._beside:
            attendant.join()
        self.standby.end()
        self._usage.stop()
        self._guarded("leave", self._leave)
        log.info("worker %s has stopped", self.worker_id)

    def _tick(self, hinted: bool) -> None:
        began = time.monotonic()
        for slot, attempt in list(self._running.items()):
            if self._stopping.is_set():
                attempt.stop()
            with logs.bound(run_id=attempt.claim.run_id, attempt=attempt.claim.attempt):
                if attempt.advance():
                    del self._running[slot]
                    hinted = True
        if self._beat.is_due():
            self._guarded("beat", self._note_alive)
        if self._running and (hinted or self._watch.is_due()):
            self._guarded("watch", self._look_for_wishes)
        if self._stopping.is_set():
            return
        if time.monotonic() - began > self.settings.heartbeat_seconds:  # what held us up, a lock, held up other owners too
            self._reap.postpone(self.settings.lease_seconds)
        if self._reap.is_due():
            self._guarded("reap", self._take_back)
        if hinted or self._poll.is_due():
            self._guarded("claim", self._claim_all)
        self._share_room()
        self._stand_by()
        if self._prune.is_due():
            self._guarded("prune", self._tidy)

    def _stand_by(self) -> None:
        """Have a runner wait for the slot that is likely to be next, while one is likely to be wanted."""
        slots = self._slots.find_free(self._list_taken()) or [0]
        self._guarded("standby", lambda: self.standby.look(self._slots.describe_environment(slots[:1])))

    def _tidy(self) -> None:
        """Drop old hints; what the rules of retention let go, in a thread beside the loop."""
        self.database.hints.prune()
        if isinstance(self.files, SharedFiles):
            sweep_carried(self.database, self.files)
        if self._pruning is None or not self._pruning.is_alive():
            self._pruning = threading.Thread(
                target=self._guarded, args=("retention", self._remove_old), name="prune", daemon=True
            )
            self._pruning.start()

    def _remove_old(self) -> None:
        for removal in retention.prune(self.database, self.files, self.settings):
            log.info("%s: %s", removal.owner, removal.sentence)

    def _guarded(self, what: str, action: Callable[[], None]) -> None:
        """Nothing that goes wrong may end the loop: the runners need it."""
        try:
            action()
        except Unavailable as error:
            log.warning("%s: %s", what, error)
            self._reap.postpone(self.settings.lease_seconds)
        except Exception:
            log.exception("%s failed; it is tried again", what)

    def _note_alive(self) -> None:
        with self.database.writing() as session:
            self._started_at = attempts.beat(
                session,
                self.worker_id,
                hostname=socket.gethostname(),
                devices=self._usage.describe(),
                slots=self._slots.num_slots,
                started_at=self._started_at,
                load={
                    "lease_seconds": self.settings.lease_seconds,
                    "running": [attempt.describe() for attempt in self._running.values()],
                    "off": self._off,
                },
                version=provenance.package_versions().get("var-studio", ""),
            )

    def _leave(self) -> None:
        with self.database.writing() as session:
            attempts.leave(session, self.worker_id, comes_back=bool(self.settings.worker_name))

    def _look_for_wishes(self) -> None:
        """Whether a run is in other hands, to be cancelled, or to be given back: paused, or sent to another worker."""
        with self.database.reading() as session:
            watched = runs.watch(session, [attempt.claim.run_id for attempt in self._running.values()])
        for slot, attempt in list(self._running.items()):
            wishes = watched.get(attempt.claim.run_id)
            if wishes is None or wishes.token != attempt.claim.token:
                attempt.kill_as_stale()
                del self._running[slot]
            elif wishes.cancel_wanted:
                attempt.cancel()
            elif wishes.release_wanted:
                attempt.stop()

    def _take_back(self) -> None:
        mine = [attempt.claim.run_id for attempt in self._running.values()]  # this worker lives, however late it renews
        asked_at = time.monotonic()
        with self.database.writing() as session:
            can_judge = self._leases.has_looked
            if doubt := self._leases.doubt(now(session), time.monotonic() - asked_at):
                log.warning("owners get a whole lease to renew: %s", doubt)
                self._reap.postpone(self.settings.lease_seconds)
                return
            taken = attempts.reap(session, max_attempts=self.settings.max_attempts, spare=mine) if can_judge else []
        for run_id in taken:
            log.warning("took back a run whose worker is gone", extra={"run_id": run_id})

    def _claim_all(self) -> None:
        if not self._has_room():
            return
        while slots := self._slots.find_free_apart(self._list_taken()):
            if not self._claim_into(slots):
                break
        self._refuse_oversized()

    def _has_room(self) -> bool:
        """Return whether something new may be begun; the log says once why not, and once that it may again."""
        storage = self.database.disk.look() if self.database.disk.is_limited else None
        is_full = storage is not None and storage.is_full
        if storage is not None and is_full and not self._is_full:
            log.warning("nothing new is begun until there is room: %s", storage.reason)
        if self._is_full and not is_full:
            log.info("there is room again")
        self._is_full = is_full
        return not is_full

    def _list_taken(self) -> set[int]:
        return {slot for attempt in self._running.values() for slot in attempt.slots}

    def _claim_into(self, slots: list[int]) -> bool:
        """Let the next run begin in some of the free slots, one for each of its processes; False when none can."""
        with self.database.reading() as session:  # so that an idle worker never takes the write lock
            if not queue.has_next(session, self.worker_id):
                return False
        with self.database.writing() as session:
            claim = attempts.begin(
                session, self.worker_id, self.settings.lease_seconds, num_free=len(slots), num_places=self._slots.num_places
            )
        if claim is None:
            return False
        with logs.bound(run_id=claim.run_id, attempt=claim.attempt):
            self._begin(claim, slots[: claim.num_processes])
        return True

    def _share_room(self, wanted: Sequence[int] = ()) -> None:
        """Let chats be answered where no run is, nor begins now in the `wanted` slots: a run has its device at once."""
        free = self._slots.find_free(self._list_taken().union(wanted))
        self._chats.give_room([Room(self._slots.device, self._slots.name_gpus([slot])) for slot in free])

    def _begin(self, claim: attempts.Claim, slots: list[int]) -> None:
        self._share_room(slots)
        try:
            if isinstance(self.files, SharedFiles):
                self._running[slots[0]] = self._await(claim, slots, self.files)
            elif not self._take_over(claim):
                self._running[slots[0]] = self._spawn(claim, slots)
        except (StudioError, OSError, ValueError) as error:
            log.exception("the runner could not be started")
            self._give_up(claim, error)

    def _refuse_oversized(self) -> None:
        """Runs of more processes than any worker has places would wait forever: they fail with a sentence."""
        with self.database.reading() as session:
            if not queue.has_next(session, self.worker_id):
                return
            most = max(self._slots.num_places, workers.find_most_places(session) or 0)
        with self.database.writing() as session:
            claim = attempts.begin(session, self.worker_id, self.settings.lease_seconds, more_than=most)
        if claim is not None:
            self._give_up(claim, RecipeInvalid.at("training.num_processes", describe_shortage(claim.num_processes, most)))

    def _await(self, claim: attempts.Claim, slots: list[int], files: SharedFiles) -> Arrival:
        """Hosts share no folder: what the attempt needs is fetched first, while this loop goes on."""
        return Arrival(
            self.database, self.settings, files, claim, slots,
            take_over=lambda deliver: self._take_over(claim, deliver),
            spawn=lambda delivery: self._spawn(claim, slots, delivery),
            give_up=self._give_up,
        )  # fmt: skip

    def _take_over(self, claim: attempts.Claim, deliver: Callable[[], None] | None = None) -> bool:
        """Settle what earlier attempts left: a runner that still runs here, half-written files, lines nobody recorded.

        True when the last one had succeeded without anybody hearing it, so that nothing is left to do.
        """
        earlier = self.files.run_dir(claim.run_id) / "attempts"
        kill_leftovers(earlier)
        remove_unfinished(earlier)
        outcome = catch_up(self.database, self.files, claim)
        if deliver is not None and outcome is not None and outcome.outcome is Outcome.SUCCEEDED:
            deliver()
        with self.database.writing() as session:
            attempts.open_spool(session, claim)
            if outcome is None or outcome.outcome is not Outcome.SUCCEEDED:
                return False
            attempts.finish(session, claim.run_id, claim.token, outcome)
        return True

    def _spawn(self, claim: attempts.Claim, slots: list[int], delivery: Delivery | None = None) -> RunningAttempt:
        with self.database.reading() as session:
            spec = attempts.build_spec(
                session, self.files, self.settings, claim, self._slots.device,
                num_threads=self._slots.num_threads, supervisor_pid=os.getpid(),
            )  # fmt: skip
            keys = attempts.hand_keys(session, self.settings, spec)
        folder = self.files.attempt_dir(claim.run_id, claim.attempt)
        write_atomic(folder / "spec.json", spec.model_dump_json(by_alias=True, indent=1).encode())
        environment = self._slots.describe_environment(slots)
        waiting = self.standby.take(environment) if len(slots) == 1 else None
        process = RunnerProcess(self._command, folder, environment, keys, waiting)
        self.standby.want(SETTLE_SECONDS)  # where one run begins, another may follow
        log.info("started runner %d in slots %s", process.pid, slots)
        return RunningAttempt(self.database, self.settings, claim, process, folder, self._patience, slots, delivery)

    def _give_up(self, claim: attempts.Claim, error: Exception) -> None:
        """The attempt never began: a fault of the recipe ends the run, one of this machine may pass."""
        is_passing = isinstance(error, (OSError, Unavailable)) and not is_disk_full(error)
        detail = error.detail if isinstance(error, StudioError) else str(error)
        remedy = REMEDY_DISK_FULL if is_disk_full(error) else remedy_of(error) if isinstance(error, StudioError) else ""
        reason = f"The runner could not be started: {detail}"
        outcome = OutcomeReached(outcome=Outcome.FAILED, reason=reason, remedy=remedy, retry=is_passing)
        with self.database.writing() as session:
            attempts.finish(session, claim.run_id, claim.token, outcome, max_attempts=self.settings.max_attempts)
