"""`varstudio demo`, shrunken but whole: real web, real worker, real runner, everything over REST."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.flow.studio import free_port

SCALE = "0.02"


def run_demo(data_dir: Path, *arguments: str, popen: Any = subprocess.Popen) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STUDIO_")}
    command = [sys.executable, "-m", "app.cli", "demo", "--exit", "--data-dir", str(data_dir), "--scale", SCALE, *arguments]
    with popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        stdout, stderr = process.communicate(timeout=280)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, int, subprocess.CompletedProcess[str]]:
    """A demonstration in an empty folder, whose port is taken and in which an older one was killed while it saved."""
    data_dir = tmp_path_factory.mktemp("demo")
    left = data_dir / "demonstration" / f"seed-0-scale-{SCALE}" / ".policy.0a1b2c3d4e5f.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    (left.parent / ".preferences.jsonl.0a1b2c3d4e5f.part").write_text("{")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_demo(data_dir, "--port", str(port))
    return data_dir, port, done


def test_it_goes_from_nothing_to_a_result(first):
    data_dir, _, done = first
    assert done.stderr == ""
    for expected in (
        "policy: saved, ", "reward: saved, ", "Uploaded 64 preference pairs", "Launched Help desk", "Stage train", "Succeeded.",
        "test prompts, read once", "mean true score", "win rate (95 % interval)", "A typical gain", "The largest loss",
    ):  # fmt: skip
        assert expected in done.stdout
    with sqlite3.connect(data_dir / "studio.db") as database:
        assert database.execute("SELECT name, state FROM runs").fetchall() == [("Help desk, kind and specific", "succeeded")]


def test_too_few_prompts_are_said_and_end_with_status_1(first):
    _, _, done = first
    assert done.returncode == 1
    assert "Not clearly better: only 11 test prompts were answered, 100 are needed" in done.stdout


def test_a_taken_port_is_said_and_another_one_is_used(first):
    _, port, done = first
    assert f"Port {port} is taken, so the demonstration uses " in done.stdout
    assert f"http://127.0.0.1:{port}" not in done.stdout
    assert "/login/" in done.stdout


def test_nothing_half_made_stays_and_nothing_secret_is_logged(first):
    data_dir, _, done = first
    folder = data_dir / "demonstration" / f"seed-0-scale-{SCALE}"
    assert sorted(path.name for path in folder.iterdir()) == ["made.json", "policy", "preferences.jsonl", "reward"]
    rows = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    assert {"prompt", "chosen", "rejected"} <= set(rows[0])
    secret = done.stdout.split("/login/")[1].split()[0]
    assert secret not in (data_dir / "demonstration" / "studio.log").read_text()


def test_a_second_demonstration_reuses_data_and_models_and_cancels_what_a_killed_one_left(first):
    data_dir, _, _ = first
    with sqlite3.connect(data_dir / "studio.db") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(runs)") if row[1] != "id"]
        names = ", ".join(columns)
        database.execute(f"INSERT INTO runs (id, {names}) SELECT 'run_left', {names} FROM runs LIMIT 1")
        database.execute("UPDATE runs SET state = 'queued', finished_at = NULL, idempotency_key = NULL WHERE id = 'run_left'")
        database.execute("UPDATE runs SET held_at = created_at WHERE id = 'run_left'")  # no worker is to be quicker
    database.close()
    done = run_demo(data_dir, "--port", str(free_port()), popen=warm.Popen)
    assert "data and models of an earlier demonstration are in" in done.stdout
    assert "step 1/" not in done.stdout
    with sqlite3.connect(data_dir / "studio.db") as database:
        states = sorted(state for (state,) in database.execute("SELECT state FROM runs"))
        assert states == ["cancelled", "succeeded", "succeeded"]
        assert database.execute("SELECT count(*) FROM datasets").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM models").fetchone() == (2,)
