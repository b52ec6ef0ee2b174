"""What the supervisor's tests look at: rows, journal, processes."""

import json
import os
from pathlib import Path

from app.services import runs as services
from app.store import journal, metrics
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import JournalEntry, Run
from tests.conftest import Library
from tests.waiting import wait_until


def launch(database: Database, library: Library) -> str:
    with database.writing() as session:
        return services.launch(session, library.user.id, library.recipe()).id


def fetch(database: Database, run_id: str) -> Run:
    with database.reading() as session:
        run = session.get(Run, run_id)
        assert run is not None
        return run


def read_journal(database: Database, run_id: str, *kinds: str) -> list[JournalEntry]:
    with database.reading() as session:
        return journal.read(session, run_id, kinds=kinds or None)


def wait_for_end(database: Database, run_id: str) -> Run:
    wait_until(lambda: fetch(database, run_id).finished_at is not None, f"the end of {run_id}")
    return fetch(database, run_id)


def assert_whole(database: Database, run_id: str, steps: int = 20) -> None:
    """The journal has no gap, each step's loss is there once with its value, and the run ended once."""
    entries = read_journal(database, run_id)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    with database.reading() as session:
        assert metrics.list_metrics(session, run_id, ["loss"])["loss"] == [(step, 1.0 / step) for step in range(1, steps + 1)]
    states = [entry.payload["state"] for entry in entries if entry.kind == "state"]
    assert states.count("succeeded") == 1
    assert states[-1] == "succeeded"


def assert_nothing_runs(files: Files, run_id: str) -> None:
    """No process of the first attempt's session lives, and none is left for us to reap (what was killed may take its time)."""
    runner = json.loads((files.attempt_dir(run_id, 1) / "process.json").read_text())["pid"]
    wait_until(lambda: not list_living(runner), f"the end of all processes of {run_id}")


def list_living(session_id: int) -> list[str]:
    """Return the processes of this session but for those that init is to reap."""
    living = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == session_id and not (state == "Z" and int(parent) != os.getpid()):
                living.append(entry.name)
    return living
