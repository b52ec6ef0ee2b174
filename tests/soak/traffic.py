"""What users do all the while, over REST: launch, cancel, resume, upload, and read live streams that break and go on.

Every choice comes from the seed; only the timing is the machine's.
"""

import json
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.soak.town import Town

LAUNCH_SECONDS = 1.5
REAL_SECONDS = 60.0
MOST_WAITING = 12
NUM_READERS = 4
RETRY_SECONDS = 0.5
GIVE_UP_SECONDS = 90.0  # longer than any server is away
AWAY = (429, 500, 502, 503, 504)
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Counts:
    """What was done, for the summary."""

    launches: int = 0
    repeats: int = 0  # the same launch sent again, with its key
    commands: Counter[str] = field(default_factory=Counter)
    uploads: int = 0
    connections: int = 0  # of stream readers
    entries: int = 0  # read from streams
    unexpected: list[str] = field(default_factory=list)


class Traffic:
    """Threads that use the studio until `stop`; what they saw is judged afterwards."""

    def __init__(self, town: Town, ingredients: dict[str, Any], seed: str) -> None:
        self.town, self.ingredients, self.seed = town, ingredients, seed
        self.counts = Counts()
        self.runs: dict[str, str] = {}  # id → name, of all that were launched
        self.resumed: dict[str, int] = {}
        self.uploads: list[str] = []
        self.streams_seen: dict[str, int] = {}  # run → how far its stream was read without a gap
        self._number, self._next_real = 0, 0.0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        work = [self._launch, self._meddle, self._upload, *[self._read] * NUM_READERS]
        self._threads = [
            threading.Thread(target=self._guarded, args=(action, f"{seed}-{number}"), daemon=True)
            for number, action in enumerate(work)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(GIVE_UP_SECONDS + 30)
            assert not thread.is_alive(), "a user of the studio hangs"

    def _guarded(self, action: Any, seed: str) -> None:
        chance = random.Random(seed)
        with self.town.client() as client:
            while not self._stopping.is_set():
                try:
                    action(client, chance)
                except Exception as error:
                    self.note(f"{getattr(action, '__name__', action)}: {type(error).__name__}: {error}")
                    self._stopping.wait(1)

    def note(self, what: str) -> None:
        """Something that no mishap excuses."""
        with self._lock:
            self.counts.unexpected.append(what[:500])

    def ask(self, client: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer; asked again while the web or its database is away."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while True:
            with suppress(httpx.TransportError):
                answer = client.request(method, path, **more)
                if answer.status_code not in AWAY:
                    return answer
                if answer.status_code == 500:
                    self.note(f"500 at {method} {path}: {answer.text[:200]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path} was not answered for {GIVE_UP_SECONDS:.0f} s")
            time.sleep(RETRY_SECONDS)

    def list(self, client: httpx.Client, state: str) -> list[dict[str, Any]]:
        answer = self.ask(client, "GET", f"/api/v1/runs?state={state}&limit=50")
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    # what users do

    def _launch(self, client: httpx.Client, chance: random.Random) -> None:
        """The next launch; one each minute is really trained; now and then the same one is sent twice."""
        if self._stopping.wait(LAUNCH_SECONDS * chance.uniform(0.5, 1.5)) or len(self.list(client, "queued")) >= MOST_WAITING:
            return
        self._number += 1
        is_real = time.monotonic() >= self._next_real
        if is_real:
            self._next_real = time.monotonic() + REAL_SECONDS
        self.launch(client, chance, self._number, is_real=is_real)

    def launch(self, client: httpx.Client, chance: random.Random, number: int, *, is_real: bool) -> None:
        name = f"real-{number}" if is_real else f"stand-in-{number}"
        steps = 60 if is_real else chance.choice([10, 20, 40, 60])
        training = {"steps": steps, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 10 if is_real else 5}
        recipe = {**self.ingredients, "name": name, "training": training}
        headers = {"idempotency-key": f"{self.seed}-{number}"}
        answers = [
            self.ask(client, "POST", "/api/v1/runs", json=recipe, headers=headers) for _ in range(chance.choice([1, 1, 1, 2]))
        ]
        for answer in answers:
            assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
        found = {answer.json()["id"] for answer in answers}
        assert len(found) == 1, f"one key, several runs: {found}"
        with self._lock:
            self.counts.launches += 1
            self.counts.repeats += len(answers) - 1
            self.runs[found.pop()] = name

    def _meddle(self, client: httpx.Client, chance: random.Random) -> None:
        """Cancel, pause, release or move up a run that lives, resume one that was cancelled or failed."""
        if self._stopping.wait(3 * chance.uniform(0.5, 1.5)):
            return
        verb = chance.choice(["cancel", "resume", "resume", "pause", "release", "release", "hurry"])
        if verb == "resume":
            runs = self.list(client, "cancelled") + self.list(client, "failed")
        elif verb == "release":
            runs = self.list(client, "paused")
        else:
            runs = self.list(client, chance.choice(["queued", "running"]))
        if runs:
            self.command(client, chance.choice(runs)["id"], verb)

    def command(self, client: httpx.Client, run_id: str, verb: str) -> None:
        """One command about a run; 409 where the run has moved on meanwhile."""
        if verb == "hurry":
            answer = self.ask(client, "PATCH", f"/api/v1/runs/{run_id}", json={"priority": 1})
        else:
            answer = self.ask(client, "POST", f"/api/v1/runs/{run_id}/{verb}")
        assert answer.status_code in (200, 202, 409), f"{verb}: {answer.status_code} {answer.text}"
        if answer.status_code != 409:
            with self._lock:
                self.counts.commands[verb] += 1
                if verb == "resume":
                    self.resumed[run_id] = self.resumed.get(run_id, 0) + 1

    def _upload(self, client: httpx.Client, chance: random.Random) -> None:
        """A small data set every ten seconds. One that the web died over may be there or not, but never half."""
        if self._stopping.wait(10 * chance.uniform(0.5, 1.5)):
            return
        row = json.dumps({"prompt": "Why?", "chosen": "Because.", "rejected": "No."})
        with suppress(httpx.TransportError):
            answer = client.post("/api/v1/datasets", data={"name": "soak"}, files={"file": ("soak.jsonl", f"{row}\n" * 20)})
            if answer.status_code in AWAY:
                return
            assert answer.status_code == 201, f"upload: {answer.status_code} {answer.text}"
            with self._lock:
                self.counts.uploads += 1
                self.uploads.append(answer.json()["id"])

    def _read(self, client: httpx.Client, chance: random.Random) -> None:
        """Follow a run for some seconds at a time, coming back with Last-Event-ID; some to the end, some not."""
        runs = self.list(client, "running") or self.list(client, "queued")
        if not runs:
            self._stopping.wait(0.5)
            return
        run_id = chance.choice(runs)["id"]
        seen = 0
        for _ in range(chance.randint(1, 4)):
            seen, ended = self.follow(client, run_id, seen, seconds=chance.uniform(0.5, 8))
            if ended or self._stopping.is_set():
                break
        with self._lock:
            self.streams_seen[run_id] = max(seen, self.streams_seen.get(run_id, 0))

    def follow(self, client: httpx.Client, run_id: str, seen: int, *, seconds: float) -> tuple[int, bool]:
        """Read one connection of the stream; the seq reached, and whether the stream has said that it is over."""
        deadline = time.monotonic() + seconds
        headers = {"last-event-id": str(seen)} if seen else {}
        self.counts.connections += 1
        with suppress(httpx.TransportError), client.stream("GET", f"/api/v1/runs/{run_id}/stream", headers=headers) as answer:
            if answer.status_code == 204:  # it has ended, and all was seen
                return seen, True
            if answer.status_code != 200:
                time.sleep(RETRY_SECONDS)
                return seen, False
            for line in answer.iter_lines():
                if line.startswith("id:"):
                    seq = int(line.removeprefix("id:"))
                    if seq != seen + 1:
                        self.note(f"the stream of {run_id} went from {seen} to {seq}")
                    seen = seq
                    self.counts.entries += 1
                if line == "event: end":
                    return seen, True
                if time.monotonic() > deadline or self._stopping.is_set():
                    return seen, False
        return seen, False
