"""Workers on hosts that share no folder, with a stand-in runner: each has a data folder of its own, all one object store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.services import runs as services
from app.settings import Settings
from app.store.database import Database
from app.store.files.object_folders import find_tree
from app.store.files.objects import ObjectStore
from app.store.files.shared_files import SharedFiles
from tests import warm
from tests.conftest import CHECKOUT, Library
from tests.flow.watching import assert_whole, fetch, launch, read_journal, wait_for_end
from tests.store.files.s3 import S3Server
from tests.waiting import END_SECONDS, wait_until

Work = Callable[..., "subprocess.Popen[bytes]"]


class Place:
    """Where the store is, and what a worker is told of it."""

    def __init__(self, url: str, endpoint: str = "") -> None:
        self.url, self.endpoint = url, endpoint
        self.environment = {"STUDIO_STORE_URL": url, "STUDIO_STORE_ENDPOINT": endpoint}

    def open(self) -> ObjectStore:
        return ObjectStore(self.url, self.endpoint)


EITHER = pytest.mark.parametrize("place", ["file", "s3"], indirect=True)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A bucket; a folder where the test asks for both."""
    if getattr(request, "param", "s3") == "file":
        return Place(f"file://{tmp_path / 'store'}")
    server: S3Server = request.getfixturevalue("s3")
    return Place(server.prefix, server.url)


@pytest.fixture
def web(tmp_path: Path, place: Place, library: Library) -> SharedFiles:
    """The files as the web sees them, with a folder that no worker knows; the data set's file is in the store."""
    files = SharedFiles(tmp_path / "web", place.open())
    folder = files.dataset_dir(library.dataset.id)
    folder.mkdir(parents=True)
    (folder / "examples.parquet").write_bytes(b"stands in for examples")
    files.share(folder)
    return files


@pytest.fixture
def work(settings: Settings, database: Database, tmp_path: Path, place: Place) -> Iterator[Work]:
    """Start the worker of a host, by the host's name, with the stand-in's arguments."""
    started: list[subprocess.Popen[bytes]] = []

    def start(host: str, *arguments: str, **changes: str) -> "subprocess.Popen[bytes]":
        environment = {
            "STUDIO_DATA_DIR": str(tmp_path / host), "STUDIO_DATABASE_URL": settings.sqlalchemy_url,
            "STUDIO_BROKER_URL": "redis://127.0.0.1:1/0", "STUDIO_WORKER_NAME": host, "STUDIO_HEARTBEAT_SECONDS": "0.5",
            "STUDIO_LEASE_SECONDS": "4", "STUDIO_POLL_SECONDS": "0.5", "STUDIO_GRACE_SECONDS": "20", **place.environment,
            "PYTHONPATH": str(CHECKOUT), **changes,
        }  # fmt: skip
        command = [sys.executable, str(Path(__file__).with_name("work.py")), *arguments]
        with (tmp_path / f"{host}.log").open("ab") as log:
            worker = warm.Popen(
                command, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True, env={**os.environ, **environment}
            )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def kill_host(worker: "subprocess.Popen[bytes]", folder: Path, run_id: str, attempt: int) -> None:
    """The power cut: supervisor and runner are gone at once, and so is the host's folder."""
    pid = json.loads((folder / "runs" / run_id / "attempts" / str(attempt) / "process.json").read_text())["pid"]
    worker.kill()
    os.killpg(pid, signal.SIGKILL)
    worker.wait()
    shutil.rmtree(folder)


def let_go(folder: Path, run_id: str, sign: str = "go") -> None:
    """Let a runner that waits on this host go on."""
    (folder / "runs" / run_id / sign).touch()


def stored_checkpoints(web: SharedFiles, run_id: str, attempt: int) -> list[str]:
    key = f"runs/{run_id}/attempts/{attempt}/checkpoints"
    return [name for name in web.store.list_names(key) if find_tree(web.store, f"{key}/{name}") is not None]


def read_record(web: SharedFiles, run_id: str) -> str:
    return web.artifact_path(run_id, "metrics.jsonl").read_text()


@EITHER
def test_what_a_run_has_made_is_seen_from_another_folder_when_it_has_succeeded(
    work: Work, database: Database, library: Library, web: SharedFiles
) -> None:
    work("host-a")
    run_id = launch(database, library)
    assert wait_for_end(database, run_id).state == "succeeded"
    assert_whole(database, run_id)
    assert read_record(web, run_id).count("\n") == 20
    assert web.list_there(run_id, ["metrics.jsonl", "model/config.json"]) == {"metrics.jsonl"}
    assert "the stand-in begins" in web.log_path(run_id, 1).read_text()
    kept = stored_checkpoints(web, run_id, 1)  # of several that waited only the newest was sent
    assert kept[-1] == "step-000020"
    assert len(kept) <= 2
    web.remove(web.run_dir(run_id))
    assert web.store.list_names(f"runs/{run_id}") == []


@EITHER
def test_a_run_of_a_dead_host_goes_on_elsewhere_from_the_checkpoint_in_the_store(
    work: Work, database: Database, library: Library, web: SharedFiles, tmp_path: Path
) -> None:
    run_id = launch(database, library)
    first = work("host-a", "steps=40", "wait@13")
    wait_until(lambda: "step-000010" in stored_checkpoints(web, run_id, 1))
    assert fetch(database, run_id).step >= 10  # recorded before it was stored
    kill_host(first, tmp_path / "host-a", run_id, 1)
    newest = int(stored_checkpoints(web, run_id, 1)[-1].removeprefix("step-"))
    work("host-b", "steps=40", "pause=0.01")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt, run.worker_id) == ("succeeded", 2, "host-b")
    assert_whole(database, run_id, 40)
    (resumed,) = read_journal(database, run_id, "resume")
    assert resumed.payload["step"] == newest >= 10
    steps = [line.split(",")[0] for line in read_record(web, run_id).splitlines()]
    assert steps == [f'{{"step": {step}' for step in range(1, 41)]


def test_a_damaged_checkpoint_in_the_store_is_passed_over_for_the_one_before(
    work: Work, database: Database, library: Library, web: SharedFiles, tmp_path: Path
) -> None:
    run_id = launch(database, library)
    first = work("host-a", "steps=40", "wait@8", "wait@13")
    wait_until(lambda: stored_checkpoints(web, run_id, 1) == ["step-000005"])
    let_go(tmp_path / "host-a", run_id, "go-8")
    wait_until(lambda: len(stored_checkpoints(web, run_id, 1)) == 2)
    kill_host(first, tmp_path / "host-a", run_id, 1)
    older, newer = stored_checkpoints(web, run_id, 1)
    key = f"runs/{run_id}/attempts/1/checkpoints/{newer}"
    tree = find_tree(web.store, key)
    assert tree is not None
    web.store.write(f"{key}/{tree.files['state.json'].place}", b"not what was stored")
    work("host-b", "steps=40", "pause=0.01")
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 2)
    assert_whole(database, run_id, 40)
    (resumed,) = read_journal(database, run_id, "resume")
    assert resumed.payload["step"] == int(older.removeprefix("step-"))


@pytest.mark.soak
def test_a_run_that_moves_to_and_fro_never_goes_on_from_what_a_later_attempt_left_behind(
    work: Work, database: Database, library: Library, web: SharedFiles, tmp_path: Path
) -> None:
    run_id = launch(database, library)
    first = work("host-a", "steps=60", "pause=0.1")
    wait_until(lambda: fetch(database, run_id).step >= 12)
    first.send_signal(signal.SIGTERM)  # saves, stores and gives back
    assert first.wait(END_SECONDS) == 0
    assert fetch(database, run_id).state == "queued"
    second = work("host-b", "steps=60", "pause=0.1")
    wait_until(lambda: fetch(database, run_id).attempt == 2 and len(stored_checkpoints(web, run_id, 2)) == 2)
    kill_host(second, tmp_path / "host-b", run_id, 2)
    work("host-a", "steps=60", "pause=0.01")  # its own folder still holds the checkpoints of attempt 1
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 3)
    assert_whole(database, run_id, 60)
    steps = [entry.payload["step"] for entry in read_journal(database, run_id, "resume")]
    assert len(steps) == 2
    assert 12 <= steps[0] < steps[1]
    assert read_record(web, run_id).count("\n") == 60


def test_a_run_without_its_data_in_the_store_fails_with_what_to_do(
    work: Work, database: Database, library: Library, web: SharedFiles
) -> None:
    web.store.remove(f"datasets/{library.dataset.id}")
    work("host-a")
    run = wait_for_end(database, launch(database, library))
    assert (run.state, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "upload it again" in run.error["reason"]


def test_while_the_store_is_away_the_runner_goes_on_and_the_run_ends_when_it_is_back(
    work: Work, database: Database, library: Library, web: SharedFiles, s3: S3Server, tmp_path: Path
) -> None:
    work("host-a", "steps=30", "wait@8")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 6)
    s3.process.send_signal(signal.SIGSTOP)
    try:
        let_go(tmp_path / "host-a", run_id)
        wait_until(lambda: fetch(database, run_id).step == 30)
        time.sleep(6)  # longer than a lease: it is renewed while the files wait
        run = fetch(database, run_id)
        assert (run.state, run.attempt) == ("running", 1)
    finally:
        s3.process.send_signal(signal.SIGCONT)
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt) == ("succeeded", 1)
    assert_whole(database, run_id, 30)
    assert read_record(web, run_id).count("\n") == 30


def test_a_cancel_ends_a_run_whose_files_wait_for_a_store_that_is_away(
    work: Work, database: Database, library: Library, web: SharedFiles, s3: S3Server, tmp_path: Path
) -> None:
    work("host-a", "steps=10", "wait@3")
    run_id = launch(database, library)
    wait_until(lambda: fetch(database, run_id).step >= 1)
    s3.process.send_signal(signal.SIGSTOP)
    try:
        let_go(tmp_path / "host-a", run_id)
        wait_until(lambda: fetch(database, run_id).step == 10)
        with database.writing() as session:
            services.request_cancel(session, library.user.id, run_id)
        assert wait_for_end(database, run_id).state == "cancelled"
    finally:
        s3.process.send_signal(signal.SIGCONT)
