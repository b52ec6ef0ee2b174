import json
import resource

import pytest

from app.domain.events import LogWritten, StepLogged
from worker.running.spool import Spool


@pytest.fixture
def spool(tmp_path):
    opened = Spool(tmp_path / "events.jsonl")
    yield opened
    opened.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_numbered_from_one_and_carry_their_kind(spool):
    spool.write(LogWritten(level="info", text="zwei\nZeilen 🙂"))
    spool.write(LogWritten(level="error", text="x"))
    first, second = lines(spool.path)
    assert (first["n"], second["n"], first["kind"]) == (1, 2, "log")
    assert first["payload"] == {"level": "info", "text": "zwei\nZeilen 🙂"}
    assert first["at"].endswith("Z")


def test_numbers_that_are_not_finite_become_null(spool):
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
    again.close()
    assert [line["n"] for line in lines(path)] == [1, 2]


def test_a_lone_surrogate_does_not_stop_a_run(spool):
    spool.write(LogWritten(level="info", text="broken \ud83d text"))
    assert lines(spool.path)[0]["payload"]["text"].startswith("broken ")


def test_a_disk_that_takes_only_a_part_leaves_whole_lines(spool):
    spool.write(LogWritten(level="info", text="whole"))
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, kept[1]))  # the kernel then takes a part of a line, as a full disk does
    try:
        with pytest.raises(OSError, match="only a part"):
            spool.write(LogWritten(level="info", text="x" * 300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    spool.write(LogWritten(level="info", text="after"))
    assert [(line["n"], line["payload"]["text"]) for line in lines(spool.path)] == [(1, "whole"), (2, "after")]
