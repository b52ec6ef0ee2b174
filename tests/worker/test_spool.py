import json

import pytest

from app.domain.events import LogWritten, StepLogged
from worker.spool import Spool


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_numbered_from_one_and_carry_their_kind(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    spool.write(LogWritten(level="info", text="zwei\nZeilen 🙂"))
    spool.write(LogWritten(level="error", text="x"))
    first, second = lines(spool.path)
    assert (first["n"], second["n"], first["kind"]) == (1, 2, "log")
    assert first["payload"] == {"level": "info", "text": "zwei\nZeilen 🙂"}
    assert first["at"].endswith("Z")


def test_numbers_that_are_not_finite_become_null(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    metrics = {"loss": float("nan"), "grad_norm": float("inf"), "weight/ess": 1.5}
    spool.write(StepLogged(step=1, num_steps=2, epoch=0.5, batch=0, metrics=metrics, histogram=[1]))
    assert lines(spool.path)[0]["payload"]["metrics"] == {"loss": None, "grad_norm": None, "weight/ess": 1.5}


def test_a_torn_last_line_is_cut_off_and_the_numbers_go_on(tmp_path):
    path = tmp_path / "events.jsonl"
    spool = Spool(path)
    spool.write(LogWritten(level="info", text="whole"))
    spool.close()
    with path.open("a") as file:
        file.write('{"n": 2, "at": "20')
    again = Spool(path)
    again.write(LogWritten(level="info", text="next"))
    assert [line["n"] for line in lines(path)] == [1, 2]


def test_a_lone_surrogate_does_not_stop_a_run(tmp_path):
    spool = Spool(tmp_path / "events.jsonl")
    spool.write(LogWritten(level="info", text="broken \ud83d text"))
    assert lines(spool.path)[0]["payload"]["text"].startswith("broken ")


def test_a_full_disk_raises_and_leaves_whole_lines(tmp_path):
    full = tmp_path / "events.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        Spool(full).write(LogWritten(level="info", text="x"))
