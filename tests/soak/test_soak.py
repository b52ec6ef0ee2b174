"""make soak MINUTES=30: a studio in use, hurt every few seconds; in the end every run has ended well and nothing has grown.

    make soak MINUTES=1 ARGS="-k embedded"      SOAK_SEED=7 make soak

Nearly half of the time on SQLite with the embedded broker, as much on PostgreSQL and Redis, the rest with the web alone.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.store.database import Database
from tests.box.servers import find_postgresql, find_redis
from tests.box.tiny import write_models, write_pairs
from tests.soak.growth import Growth
from tests.soak.mishaps import Mishaps
from tests.soak.town import Town, processes_of
from tests.soak.traffic import ENDED, Traffic
from tests.soak.verdict import (
    NOTICED_SECONDS,
    RESUMED_SECONDS,
    Verdict,
    by_kind,
    judge_database,
    judge_delays,
    judge_files,
    judge_runs,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

MINUTES = float(os.environ.get("SOAK_MINUTES") or 30)
SEED = os.environ.get("SOAK_SEED") or "0"
SHARES = {"embedded": 0.45, "box": 0.45}  # of the minutes; the rest is for the web alone
WEB_IS_KILLED_UNTIL = 0.4  # of the time: what comes after it is long enough to see whether its memory grows
SAMPLE_SECONDS = 2.0
SETTLE_SECONDS = 240.0
CLEAN = (0, -15)  # uvicorn, when it is done, passes on the signal that asked it
NO_POSTGRESQL = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
NO_REDIS = "Redis is not installed (Debian: apt-get install redis-server)"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the servers' own users may enter."""
    name = tempfile.mkdtemp(prefix="studio-soak-")
    Path(name).chmod(0o755)
    yield Path(name)
    shutil.rmtree(name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        "embedded",
        pytest.param("box", marks=[
            pytest.mark.box,
            pytest.mark.skipif(find_postgresql() is None, reason=NO_POSTGRESQL),
            pytest.mark.skipif(find_redis() is None, reason=NO_REDIS),
        ]),
    ],
)  # fmt: skip
def test_a_studio_in_use_survives_every_mishap_and_does_not_grow(kind: str, folder: Path, models: Path) -> None:
    town = Town(folder, kind, models=models)
    faults: list[str] = []
    try:
        town.start()
        traffic = Traffic(town, prepare(town, folder), f"{SEED}-{kind}")
        mishaps, growth = Mishaps(town, f"{SEED}-{kind}"), Growth()
        seconds = MINUTES * 60 * SHARES[kind]
        use(town, traffic, mishaps, growth, seconds)
        settle(town, traffic)
        statuses = town.stop()
        faults += [f"{name} ended with status {status} after SIGTERM" for name, status in statuses.items() if status not in CLEAN]
        faults += [f"still runs: {pid} {' '.join(words)}" for pid, words in processes_of(town.data).items()]
        database = Database(town.settings)
        verdict = judge_runs(database, town, traffic.runs, traffic.resumed, mishaps.harms, mishaps.outages)
        faults += [*verdict.faults, *judge_delays(verdict), *judge_files(town.data), *judge_database(database, town)]
        database.close()
        faults += [fault for series in growth.longest() for fault in series.faults()]
        faults += traffic.counts.unexpected
        report(town, traffic, mishaps, growth, verdict, seconds)
    finally:
        town.stop()
        town.stop_servers()
    if faults:
        keep_logs(folder)
    assert not faults, "\n".join(faults[:40])


def prepare(town: Town, folder: Path) -> dict[str, Any]:
    """A data set and the tiny policy; the parts of every recipe."""
    with town.client() as client:
        pairs = write_pairs(folder / "pairs.jsonl")
        dataset = client.post("/api/v1/datasets", data={"name": "pairs"}, files={"file": (pairs.name, pairs.read_bytes())}).json()
        wait_until(
            lambda: client.get(f"/api/v1/datasets/{dataset['id']}").json()["state"] == "ready",
            seconds=60,
            what="reading the pairs",
        )
        body = {"source": "folder", "path": str(town.models / "tiny-policy"), "kind": "policy"}
        policy = client.post("/api/v1/models", json=body).json()
    return {
        "dataset": dataset["id"],
        "policy": {"model": policy["id"], "adaptation": "lora", "lora": {"rank": 4}},
        "weights": {"preset": "within_prompt", "lambda": 1.0},
        "tokens": {"max_prompt": 96, "max_response": 64},
        "evaluation": {"share": 0.1, "every": 6, "num_prompts": 2, "num_samples_shown": 1, "max_new_tokens": 8},
    }


def use(town: Town, traffic: Traffic, mishaps: Mishaps, growth: Growth, seconds: float) -> None:
    """Users and mishaps for so many seconds; then everything is mended."""
    traffic.start()
    began = time.monotonic()
    sampled = 0.0
    while (passed := time.monotonic() - began) < seconds:
        mishaps.tick(with_web=passed < WEB_IS_KILLED_UNTIL * seconds)
        if passed - sampled >= SAMPLE_SECONDS:
            growth.sample(town.pids())
            sampled = passed
        time.sleep(0.1)
    mishaps.mend()
    traffic.stop()


def settle(town: Town, traffic: Traffic) -> None:
    """Until every run has ended; one that two kills made fail is resumed, as its page advises."""
    with town.client() as client:

        def all_ended() -> bool:
            for failed in traffic.list(client, "failed"):
                reason = failed["error"]["reason"]
                if "SIGKILL" in reason:
                    traffic.command(client, failed["id"], "resume")
            for held in traffic.list(client, "paused"):
                traffic.command(client, held["id"], "release")
            states = {run["state"] for run in each_run(traffic, client)}
            return states <= set(ENDED) - {"failed"}

        wait_until(all_ended, seconds=SETTLE_SECONDS, what="the end of every run")


def each_run(traffic: Traffic, client: Any) -> Iterator[dict[str, Any]]:
    for state in ("queued", "paused", "running", "interrupted", "failed"):
        yield from traffic.list(client, state)


def keep_logs(folder: Path) -> None:
    """The logs of a soak that failed, where the next one does not remove them."""
    kept = Path(tempfile.gettempdir()) / f"{folder.name}-logs"
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("postgres", "redis", "models"), dirs_exist_ok=True)
    print(f"kept: {kept}")


def report(town: Town, traffic: Traffic, mishaps: Mishaps, growth: Growth, verdict: Verdict, seconds: float) -> None:
    counts = traffic.counts
    print(f"\n== soak {town.kind}, seed {SEED}: {seconds / 60:.1f} minutes ==")
    print(f"runs       {len(traffic.runs)} launched ({counts.repeats} sent twice): {dict(verdict.states)}")
    print(f"attempts   {verdict.attempts}: {dict(verdict.outcomes)}")
    print(f"journal    {verdict.entries} entries; streams: {counts.connections} connections, {counts.entries} entries read")
    print(f"users      {counts.uploads} uploads, " + ", ".join(f"{verb} {n}" for verb, n in sorted(counts.commands.items())))
    print(f"mishaps    {sum(mishaps.counts.values())}: " + ", ".join(f"{name} {n}" for name, n in sorted(mishaps.counts.items())))
    if mishaps.web_starts:
        print(f"web        back at most {max(mishaps.web_starts):.1f} s after each of {len(mishaps.web_starts)} new starts")
    print(f"seconds until taken back (bound {NOTICED_SECONDS:.0f}) and running again (bound {RESUMED_SECONDS:.0f}), by harm:")
    for kind, delays in sorted(by_kind(verdict).items()):
        alone = [delay for delay in delays if not delay.excuse]
        worst_resumed = max((delay.resumed for delay in delays if delay.resumed is not None), default=0.0)
        print(
            f"  {kind:<26} {len(delays):3} ×  worst {max(delay.noticed for delay in delays):5.1f} and {worst_resumed:5.1f}"
            f"   with nothing else away ({len(alone)} ×): {max((delay.noticed for delay in alone), default=0):5.1f}"
            f" and {max((delay.resumed or 0 for delay in alone), default=0):5.1f}"
        )
    for series in growth.longest():
        print("  " + series.describe())
