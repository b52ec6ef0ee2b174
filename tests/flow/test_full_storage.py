"""A worker without room begins nothing new and says so once; what runs goes on; with room again, it begins by itself."""

import logging
import threading

import pytest

from app.settings import Settings
from app.store.database import Database
from app.store.files import disk
from app.store.files.files import Files
from tests.conftest import make_library
from tests.flow.test_supervisor import STAND_IN
from tests.flow.watching import fetch, launch, wait_for_end
from tests.waiting import END_SECONDS, wait_until
from worker.supervisor import Supervisor

QUOTA = 50_000_000


def test_a_full_storage_lets_runs_end_and_holds_the_next_back(
    settings: Settings, database: Database, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk, "FRESH_SECONDS", 0.2)
    monkeypatch.setattr(disk, "FRESH_SECONDS_FULL", 0.2)
    library = make_library(database)
    running, waiting = launch(database, library), launch(database, library)
    limited = Database(settings.model_copy(update={"disk_quota_bytes": QUOTA}))
    changed = settings.model_copy(update={"worker_name": "w", "worker_slots": 1})
    supervisor = Supervisor(changed, limited, files, runner_command=(*STAND_IN, "steps=40", "pause=0.03", "wait@10"), gpus=[])
    thread = threading.Thread(target=supervisor.run)
    caplog.set_level(logging.INFO)
    thread.start()
    try:
        wait_until(lambda: fetch(database, running).step > 1)
        ballast = files.hub_dir / "ballast"
        ballast.parent.mkdir()
        with ballast.open("wb") as file:
            file.truncate(QUOTA)
        for run_id in (running, waiting):
            files.run_dir(run_id).mkdir(parents=True, exist_ok=True)
            (files.run_dir(run_id) / "go").touch()
        assert wait_for_end(database, running).state == "succeeded"
        wait_until(lambda: "nothing new is begun until there is room" in caplog.text)
        threading.Event().wait(2.0)  # several looks later
        assert fetch(database, waiting).state == "queued"
        assert caplog.text.count("nothing new is begun until there is room") == 1
        ballast.unlink()
        assert wait_for_end(database, waiting).state == "succeeded"
        assert "there is room again" in caplog.text
    finally:
        supervisor.stop()
        thread.join(END_SECONDS)
        limited.close()
