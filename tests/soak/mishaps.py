"""What goes wrong while the studio is used: processes killed, frozen, stopped; servers away; hints lost, doubled; bytes flipped.

One every few seconds, chosen by the seed among those that are possible at that moment. What was killed is started again.
The first worker is never killed, so that its memory can be watched all the way; the web only in the first part of the time.
"""

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from app.store.signals.hints import HintQueue
from tests.box.processes import Process
from tests.soak.town import LEASE_SECONDS, Town, parent_of, runners_of

PAUSE_SECONDS = (2.0, 7.0)
FROZEN_SECONDS = (1.2 * LEASE_SECONDS, 2.2 * LEASE_SECONDS)
LOOK_SECONDS = 0.5
MOST_AWAY = 1  # workers that are dead or frozen at once, so that two are left to take over


@dataclass(frozen=True)
class Harm:
    """A runner that lost its life or its worker: when, whose attempt, how."""

    at: datetime
    kind: str
    run_id: str
    attempt: int


@dataclass(frozen=True)
class Outage:
    """A time in which something that taking over depends on was away."""

    kind: str
    begin: datetime
    end: datetime


class Mishaps:
    """`tick` is called again and again; `mend` ends them all."""

    def __init__(self, town: Town, seed: str) -> None:
        self.town = town
        self.chance = random.Random(f"{seed}-mishaps")
        self.counts: Counter[str] = Counter()
        self.harms: list[Harm] = []
        self.outages: list[Outage] = []
        self.web_starts: list[float] = []
        self._repairs: list[tuple[float, Callable[[], None]]] = []
        self._away: set[str] = set()
        self._is_armed = False  # to flip a byte as soon as there is a checkpoint for it
        self._next = self._look = time.monotonic() + 3
        self._hints = HintQueue(town.settings)
        both = [
            self.kill_runner, self.kill_runner, self.kill_worker, self.kill_worker_and_runner, self.freeze_runner,
            self.freeze_worker, self.freeze_both, self.stop_worker, self.repeat_hints, self.flip_checkpoint, self.flip_checkpoint,
        ]  # fmt: skip
        box = [self.kill_redis, self.flush_redis, self.restart_postgres]
        self._kinds = [*both, *(box if town.kind == "box" else [self.lock_database])]

    def tick(self, *, with_web: bool) -> None:
        """Repair what is due, then perhaps let something happen."""
        for due, repair in list(self._repairs):
            if time.monotonic() >= due:
                self._repairs.remove((due, repair))
                repair()
        if self._is_armed and time.monotonic() >= self._look:
            self._look = time.monotonic() + LOOK_SECONDS
            if self._flip():
                self._is_armed = False
                self.counts["flip_checkpoint"] += 1
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.chance.uniform(*PAUSE_SECONDS)
        kinds = [*self._kinds, *([self.kill_web] if with_web else [])]
        self.chance.shuffle(kinds)
        for kind in kinds:
            if kind():
                self.counts[kind.__name__] += 1
                return

    def mend(self) -> None:
        """Everything runs again."""
        while self._repairs:
            due, repair = self._repairs.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            repair()
        self._hints.close()

    def _later(self, seconds: float, repair: Callable[[], None]) -> None:
        self._repairs.append((time.monotonic() + seconds, repair))

    def _is_away(self, name: str, kind: str, repair: Callable[[], None], seconds: float) -> None:
        """Note that `name` is away until it is repaired in so many seconds."""
        self._away.add(name)
        began = datetime.now(UTC)

        def mend() -> None:
            repair()
            self._away.discard(name)
            self.outages.append(Outage(kind, began, datetime.now(UTC)))

        self._later(seconds, mend)

    def _runners(self, worker: Process | None = None) -> list[tuple[int, str, int]]:
        """(process, run, attempt) of living runners, of one worker or of all that are not away."""
        names = {process.popen.pid: process.name for process in self.town.workers}
        found = [(pid, names.get(parent_of(pid), ""), *place) for pid, place in sorted(runners_of(self.town.data).items())]
        if worker is not None:
            return [(pid, run, attempt) for pid, name, run, attempt in found if name == worker.name]
        return [(pid, run, attempt) for pid, name, run, attempt in found if name and name not in self._away]

    def _worker(self, *, mortal: bool = True) -> Process | None:
        """A worker with something to lose, if another one may be away now."""
        if len([name for name in self._away if name.startswith("worker")]) >= MOST_AWAY:
            return None
        first = 1 if mortal else 0
        busy = [worker for worker in self.town.workers[first:] if self._runners(worker)]
        return self.chance.choice(busy) if busy else None

    def _harm(self, kind: str, runners: list[tuple[int, str, int]]) -> None:
        at = datetime.now(UTC)
        self.harms += [Harm(at, kind, run_id, attempt) for _, run_id, attempt in runners]

    # processes

    def kill_runner(self) -> bool:
        runners = [runner for runner in self._runners() if not self._was_harmed(runner[1])]
        if not runners:
            return False
        runner = self.chance.choice(runners)
        self._harm("runner killed", [runner])
        kill(runner[0])
        return True

    def _was_harmed(self, run_id: str) -> bool:
        """A runner that SIGKILL ended twice counts as a run that wants too much memory, and fails."""
        return any(harm.run_id == run_id for harm in self.harms)

    def kill_worker(self, *, with_runners: bool = False) -> bool:
        worker = self._worker()
        if worker is None:
            return False
        runners = self._runners(worker)
        self._harm("worker and runner killed" if with_runners else "worker killed", runners)
        if with_runners:
            for pid, _, _ in runners:
                kill(pid)
        kill(worker.popen.pid)
        worker.popen.wait()
        self._is_away(worker.name, "worker killed", worker.start, self.chance.uniform(0.5, 2 * LEASE_SECONDS))
        return True

    def kill_worker_and_runner(self) -> bool:
        return self.kill_worker(with_runners=True)

    def stop_worker(self) -> bool:
        """SIGTERM, as a deployment does it."""
        worker = self._worker()
        if worker is None:
            return False
        worker.popen.send_signal(signal.SIGTERM)

        def start_again() -> None:
            status = worker.popen.wait(60)
            assert status == 0, f"{worker.name} ended with status {status} after SIGTERM:\n{worker.text[-3000:]}"
            worker.start()

        self._is_away(worker.name, "worker stopped", start_again, self.chance.uniform(2, 8))
        return True

    def freeze_runner(self) -> bool:
        runners = self._runners()
        if not runners:
            return False
        pid = self.chance.choice(runners)[0]
        freeze([pid])
        self._later(self.chance.uniform(*FROZEN_SECONDS), lambda: wake([pid]))
        return True

    def freeze_worker(self, *, with_runners: bool = False) -> bool:
        worker = self._worker(mortal=False)
        if worker is None:
            return False
        runners = self._runners(worker)
        pids = [worker.popen.pid, *(pid for pid, _, _ in runners if with_runners)]
        self._harm("worker frozen", runners)
        freeze(pids)
        self._is_away(worker.name, "worker frozen", lambda: wake(pids), self.chance.uniform(*FROZEN_SECONDS))
        return True

    def freeze_both(self) -> bool:
        return self.freeze_worker(with_runners=True)

    def kill_web(self) -> bool:
        web = self.town.web
        assert web is not None
        if "web" in self._away:
            return False
        kill(web.popen.pid)
        web.popen.wait()

        def start_again() -> None:
            web.start()
            self.web_starts.append(self.town.wait_for_web())

        self._is_away("web", "web killed", start_again, self.chance.uniform(0.2, 3))
        return True

    # servers and hints

    def lock_database(self) -> bool:
        """Somebody else writes into the SQLite file for some seconds."""
        seconds = self.chance.uniform(1, 5)

        def hold() -> None:
            with closing(sqlite3.connect(self.town.data / "studio.db", timeout=15, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                connection.execute("ROLLBACK")

        threading.Thread(target=hold, daemon=True).start()
        self._is_away("database", "database locked", lambda: None, seconds)
        return True

    def kill_redis(self) -> bool:
        redis = self.town.redis
        assert redis is not None
        if "redis" in self._away:
            return False
        redis.popen.kill()
        redis.popen.wait()
        self._is_away(
            "redis", "redis killed", lambda: self.town.start_server(redis, self.town.redis_port), self.chance.uniform(0.5, 6)
        )
        return True

    def flush_redis(self) -> bool:
        with suppress(RedisError), Redis.from_url(self.town.settings.broker_url, socket_timeout=2) as redis:
            redis.flushall()
            return True
        return False

    def restart_postgres(self) -> bool:
        """Stopped as for an update, or at once as in a crash; away for up to three seconds."""
        postgres = self.town.postgres
        assert postgres is not None
        if "postgres" in self._away:
            return False
        postgres.popen.send_signal(self.chance.choice([signal.SIGINT, signal.SIGQUIT]))
        postgres.popen.wait(60)
        self._is_away(
            "postgres", "postgres restarted",
            lambda: self.town.start_server(postgres, self.town.postgres_port), self.chance.uniform(0.2, 3),
        )  # fmt: skip
        return True

    def repeat_hints(self) -> bool:
        """Hints five times over, and late ones for runs that have ended long ago."""
        folders = sorted(path.name for path in (self.town.data / "runs").glob("run_*"))
        if not folders:
            return False
        for run_id in [*self.chance.sample(folders, min(3, len(folders))), folders[-1]]:
            for _ in range(5):
                self._hints.send(run_id)
        return True

    def flip_checkpoint(self) -> bool:
        """The next run that really trains and has two checkpoints is meant; until there is one, other things happen."""
        self._is_armed = True
        return False

    def _flip(self) -> bool:
        """A byte of the newest checkpoint, and then its runner is killed."""
        for runner in self._runners():
            pid, run_id, _ = runner
            saved = sorted((self.town.data / "runs" / run_id / "checkpoints").glob("step-*/tensors.safetensors"))
            if len(saved) > 1 and not self._was_harmed(run_id):
                freeze([pid])  # so that it does not save another one just now
                with suppress(OSError):
                    flip_byte(saved[-1])
                self._harm("runner killed", [runner])
                kill(pid)
                return True
        return False


def flip_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def freeze(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def wake(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
