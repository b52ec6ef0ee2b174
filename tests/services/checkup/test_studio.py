"""The doctor's checks: each names what is wrong and what to do, and none stops the others."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy import text, update

from app.domain.check_result import CheckResult, Level
from app.services.checkup import machine
from app.services.checkup.broker import check_broker
from app.services.checkup.studio import check_all, check_database, judge_clock
from app.settings import Settings
from app.store.database import Database, now
from app.store.tables import Run, Worker
from tests.conftest import make_library
from tests.flow.watching import launch
from tests.store.files.s3 import S3Server


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False), ((3, 45, 0), True),
        ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 0), True), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 53, 0), False),
    ],
)  # fmt: skip
def test_the_range_of_the_wal_reset_bug(settings: Settings, version: tuple[int, int, int], is_affected: bool) -> None:
    (verdict,) = machine.check_sqlite(settings, version)
    assert (verdict.level is Level.WARNING) == is_affected
    assert ("3.51.3" in verdict.remedy) == is_affected


def test_the_wal_reset_bug_is_nobodys_matter_on_the_box(settings: Settings) -> None:
    boxed = settings.model_copy(update={"database_url": "postgresql://db/x", "broker_url": "redis://r"})
    (verdict,) = machine.check_sqlite(boxed, (3, 40, 1))
    assert verdict.level is Level.OK


def levels(verdicts: list[CheckResult]) -> dict[str, Level]:
    return {verdict.check: verdict.level for verdict in verdicts}


def only(verdicts: list[CheckResult], check: str) -> CheckResult:
    (found,) = [verdict for verdict in verdicts if verdict.check == check]
    return found


def test_a_healthy_studio_has_no_error(either_database: Database) -> None:
    launch(either_database, make_library(either_database))
    verdicts = check_database(either_database.settings)
    assert set(levels(verdicts).values()) <= {Level.OK, Level.WARNING}
    assert levels(verdicts)["tables"] is Level.OK
    assert only(verdicts, "workers").level is Level.WARNING  # something is queued, and nobody is there
    assert "varstudio up" in only(verdicts, "workers").remedy


def test_a_database_that_is_down_is_an_error_and_the_other_checks_still_run(settings: Settings, tmp_path: Path) -> None:
    urls = {
        "database_url": "postgresql://studio:hunter2@127.0.0.1:1/x?options=hunter2",
        "broker_url": "redis://:hunter2@127.0.0.1:2/0",
    }
    settings.root.mkdir(mode=0o700)
    verdicts = check_all(settings.model_copy(update=urls), tmp_path / "no-token")
    found = levels(verdicts)
    assert found["database"] is found["broker"] is Level.ERROR
    assert found["versions"] is found["disk"] is found["writing"] is Level.OK
    assert "hunter2" not in repr(verdicts)


def test_a_check_that_falls_over_is_a_verdict_of_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.checkup.studio.check_gpus", lambda: 1 / 0)
    verdicts = check_all(settings, tmp_path / "no-token")
    assert "could not be checked (ZeroDivisionError)" in only(verdicts, "gpus").sentence
    assert levels(verdicts)["addresses"] is Level.OK


def test_a_damaged_database_is_named(settings: Settings, database: Database) -> None:
    with database.writing() as session:
        for number in range(2000):
            row = "INSERT INTO users (id, name, role, created_at) VALUES (:id, :id, 'member', '2026-01-01')"
            session.execute(text(row), {"id": f"user_{number:06d}"})
    database.close()
    path = settings.root / "studio.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 3 * 4096)
        file.write(os.urandom(3 * 4096))
    verdicts = check_database(settings)
    assert [verdict for verdict in verdicts if verdict.level is Level.ERROR and "varstudio restore" in verdict.remedy]


def test_a_file_that_is_no_database_is_named(settings: Settings) -> None:
    settings.root.mkdir()
    (settings.root / "studio.db").write_bytes(b"no database at all" * 1000)
    (verdict,) = check_database(settings)
    assert verdict.level is Level.ERROR
    assert "varstudio restore" in verdict.remedy


def test_no_studio_at_all_is_no_error_and_none_is_made(settings: Settings) -> None:
    (verdict,) = check_database(settings)
    assert verdict.level is Level.WARNING
    assert not settings.root.exists()


@pytest.mark.parametrize(("revision", "words"), [("20261123_create_the_first_tables", "older|newer"), ("ffff", "newer")])
def test_tables_of_another_version_are_named(either_database: Database, revision: str, words: str) -> None:
    with either_database.rebuilding() as connection:
        before = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
    try:
        verdict = only(check_database(either_database.settings), "tables")
        assert verdict.level is Level.ERROR
        assert any(word in verdict.sentence for word in words.split("|"))
    finally:
        with either_database.rebuilding() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": before})


def test_a_run_that_nobody_holds_and_silent_workers_are_named(either_database: Database) -> None:
    run_id = launch(either_database, make_library(either_database))
    with either_database.writing() as session:
        at = session.get_one(Run, run_id).created_at
        session.execute(update(Run).where(Run.id == run_id).values(state="running", lease_expires_at=at - timedelta(seconds=300)))
        session.add(Worker(id="w", hostname="h", devices=[], slots=1, started_at=at, beat_at=at - timedelta(hours=1)))
    verdicts = check_database(either_database.settings)
    assert only(verdicts, "leases").level is Level.WARNING
    assert run_id in only(verdicts, "leases").sentence
    assert "1 silent" in only(verdicts, "workers").sentence


def test_leftovers_are_found_and_an_unfinished_restore_is_an_error(database: Database, settings: Settings) -> None:
    library = make_library(database)
    for name in ("uploads/a.part", "runs/run_gone/x", f"datasets/{library.dataset.id}/source", "datasets/data_gone/source"):
        path = settings.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in settings.root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (settings.root / "restoring.json").write_text("{}")
    verdicts = check_database(settings)
    sentences = [verdict.sentence for verdict in verdicts if verdict.check == "leftovers"]
    assert any("uploads/a.part" in sentence for sentence in sentences)
    assert any("2 files or folders belong to no row" in sentence and "data_gone" in sentence for sentence in sentences)
    assert only(verdicts, "restore").level is Level.ERROR


@pytest.mark.parametrize(("seconds", "level"), [(0.5, Level.OK), (-1.0, Level.OK), (5.0, Level.WARNING), (-40.0, Level.ERROR)])
def test_a_clock_that_is_off_by_a_lease_is_an_error(seconds: float, level: Level) -> None:
    assert judge_clock(seconds, 30.0).level is level


def test_the_embedded_broker_tells_how_much_waits(database: Database, settings: Settings) -> None:
    (verdict,) = check_broker(settings)
    assert verdict.level is Level.OK
    assert "0 hints wait" in verdict.sentence


@pytest.mark.parametrize(
    ("free", "min_free", "level"),
    [(500e9, 0, Level.OK), (4e9, 0, Level.WARNING), (1e7, 0, Level.ERROR), (50e9, 60 * 10**9, Level.ERROR)],
)
def test_the_space_of_a_disk_is_judged(free: float, min_free: int, level: Level) -> None:
    assert machine.judge_space(int(free), 10**12, min_free).level is level


def test_sqlite_on_a_network_file_system_is_warned_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(mountpoint="/", fstype="ext4")
    network = SimpleNamespace(mountpoint=str(settings.root.parent), fstype="nfs4")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [disk, network])
    (verdict,) = machine.check_file_system(settings)
    assert verdict.level is Level.WARNING
    assert "nfs4" in verdict.sentence
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [disk])
    assert machine.check_file_system(settings)[0].level is Level.OK


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    assert machine.probe_writing(tmp_path / "gone").level is Level.ERROR
    assert machine.probe_writing(tmp_path).level is not Level.ERROR
    assert list(tmp_path.iterdir()) == []


def test_secrets_that_others_can_read_are_an_error(settings: Settings) -> None:
    settings.root.mkdir(mode=0o700)
    token = settings.root / "cli-token"
    token.write_text("secret")
    token.chmod(0o644)
    assert [verdict.level for verdict in machine.check_rights(settings, token)] == [Level.ERROR]
    token.chmod(0o600)
    settings.root.chmod(0o755)
    assert [verdict.level for verdict in machine.check_rights(settings, token)] == [Level.WARNING]
    settings.root.chmod(0o700)
    assert [verdict.level for verdict in machine.check_rights(settings, token)] == [Level.OK]


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, Level.OK),
        ({"host": "0.0.0.0"}, Level.ERROR),
        ({"public_url": "studio"}, Level.ERROR),
        ({"public_url": "https://example.org/studio"}, Level.ERROR),
        ({"public_url": "https://[example.org"}, Level.ERROR),
        ({"public_url": "http://studio.example.org"}, Level.WARNING),
        ({"host": "0.0.0.0", "public_url": "https://studio.example.org"}, Level.OK),
    ],
)
def test_addresses_are_judged(settings: Settings, changes: dict[str, str], level: Level) -> None:
    (verdict,) = machine.check_addresses(settings.model_copy(update=changes))
    assert verdict.level is level


def test_model_roots_that_are_not_there_are_named(settings: Settings, tmp_path: Path) -> None:
    (verdict,) = machine.check_model_roots(settings.model_copy(update={"model_roots": [tmp_path, tmp_path / "gone"]}))
    assert verdict.level is Level.WARNING
    assert str(tmp_path / "gone") in verdict.sentence


def test_a_limit_that_is_reached_is_an_error_with_the_remedy(settings: Settings) -> None:
    settings.root.mkdir()
    assert only(machine.check_disk(settings), "limits").level is Level.OK
    (settings.root / "studio.db").write_bytes(b"x" * 1000)
    reached = {"disk_quota_bytes": 1000, "min_free_bytes": 10**18}
    for name, limit in reached.items():
        verdict = only(machine.check_disk(settings.model_copy(update={name: limit})), "limits")
        assert verdict.level is Level.ERROR
        assert f"STUDIO_{name.upper()}" in verdict.sentence
        assert "Delete runs" in verdict.remedy
        assert "VACUUM" in verdict.remedy
    roomy = settings.model_copy(update={"disk_quota_bytes": 10**9})
    assert only(machine.check_disk(roomy), "limits").level is Level.OK


def test_the_object_store_is_tried(settings: Settings, tmp_path: Path) -> None:
    def check(url: str) -> CheckResult:
        (verdict,) = machine.check_store(settings.model_copy(update={"store_url": url}))
        return verdict

    assert check("").level is Level.OK
    assert check(f"file://{tmp_path}/store").level is Level.OK
    assert list((tmp_path / "store").iterdir()) == []
    (tmp_path / "occupied").write_text("no folder")
    for url, words in (
        ("s3:/bucket", "STUDIO_STORE_URL must be a URL"),
        ("nowhere://bucket", "of a kind that is not known here; known are s3://,"),
        (f"file://{tmp_path}/occupied/store", "can't be reached"),
    ):
        verdict = check(url)
        assert verdict.level is Level.ERROR
        assert words in verdict.sentence
        assert verdict.remedy
    assert "hunter2" not in repr(check("s3://ada:hunter2@bucket/x"))


def test_an_object_store_that_nobody_serves_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    absent = settings.model_copy(update={"store_url": "s3://bucket/x", "store_endpoint": "http://127.0.0.1:1"})
    verdicts = check_all(absent, settings.root / "no-token")
    assert only(verdicts, "store").level is Level.ERROR
    assert "can't be reached" in only(verdicts, "store").sentence


def test_a_bucket_is_tried_and_one_that_is_not_there_is_an_error(settings: Settings, s3: S3Server) -> None:
    there = settings.model_copy(update={"store_url": s3.prefix, "store_endpoint": s3.url})
    assert [verdict.level for verdict in machine.check_store(there)] == [Level.OK]
    (verdict,) = machine.check_store(there.model_copy(update={"store_url": "s3://no-such-bucket/x"}))
    assert verdict.level is Level.ERROR
    assert "is not there: make its bucket" in verdict.sentence


def test_workers_that_are_all_paused_while_runs_wait_are_warned_of(either_database: Database) -> None:
    with either_database.writing() as session:
        for name in ("w1", "w2"):
            session.add(Worker(id=name, hostname="h", devices=[], slots=1, started_at=now(session), beat_at=now(session)))
        session.flush()
        session.get_one(Worker, "w1").paused_at = now(session)
    launch(either_database, make_library(either_database))
    assert only(check_database(either_database.settings), "workers").level is Level.OK
    with either_database.writing() as session:
        session.get_one(Worker, "w2").paused_at = now(session)
    verdict = only(check_database(either_database.settings), "workers")
    assert verdict.level is Level.WARNING
    assert "Every worker that is alive is paused" in verdict.sentence
    assert "varstudio workers resume w" in verdict.remedy


def test_rights_of_a_data_folder_that_is_not_there_yet_are_said_so(settings: Settings) -> None:
    (verdict,) = machine.check_rights(settings, settings.root / "no-token")
    assert f"{settings.root} is not there yet" in verdict.sentence


@pytest.fixture
def fake_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A program named nvidia-smi, first in the path."""

    def write(script: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return write


def test_gpus_are_told_with_memory_and_driver(fake_smi: Callable[[str], None]) -> None:
    fake_smi("echo 'NVIDIA H100, 81559 MiB, 570.1'")
    (verdict,) = machine.check_gpus()
    assert verdict.sentence == "1: NVIDIA H100, 81559 MiB, 570.1."
    fake_smi("exit 9")
    (verdict,) = machine.check_gpus()
    assert verdict.level is Level.WARNING


@pytest.fixture
def torch_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A torch, first in the path, whose version file says which CUDA it is built for."""

    def write(cuda: str) -> None:
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('torch is not to be loaded')")
        (tmp_path / "torch" / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {cuda}\nhip = None\n")
        monkeypatch.setattr(machine, "find_spec", lambda _: PathFinder.find_spec("torch", [str(tmp_path)]))

    return write


@pytest.mark.parametrize(("driver", "level"), [("570.86.15", Level.ERROR), ("580.65.06", Level.OK), ("590.1", Level.OK)])
def test_a_driver_that_is_too_old_for_the_cuda_of_torch_is_an_error(
    fake_smi: Callable[[str], None], torch_for: Callable[[str], None], driver: str, level: Level
) -> None:
    torch_for("'13.0'")
    fake_smi(f"echo {driver}; echo {driver}")
    (result,) = machine.check_driver()
    assert result.level is level
    assert f"driver is {driver}; CUDA 13.0, for which torch here is built, needs 580 or newer." in result.sentence


def test_a_torch_for_cpus_needs_no_driver(fake_smi: Callable[[str], None], torch_for: Callable[[str], None]) -> None:
    torch_for("None")
    fake_smi("echo 470.1")
    assert machine.check_driver() == []


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_a_machine_without_a_driver_uses_the_cpu() -> None:
    (verdict,) = machine.check_gpus()
    assert "CPU" in verdict.sentence
