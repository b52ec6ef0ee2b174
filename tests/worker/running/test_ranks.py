"""Processes of one run, as the runner sees them: programs that end well, badly, or not at all."""

import json
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from app.domain.run import Outcome
from tests.timing import Clock
from worker.running import ranks
from worker.running.ranks import Crashed, run_ranks
from worker.running.stop import StopSignals

PROGRAM = """
import json, os, signal, socket, sys, time
folder, rank, size, port, *listening = sys.argv[1:]
def say(outcome, **more):
    open(f"{folder}/rank-{rank}/outcome.json", "w").write(json.dumps({"outcome": outcome, **more}))
    sys.exit({"succeeded": 0, "failed": 10, "cancelled": 11, "interrupted": 12}[outcome])
"""


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "attempts" / "1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "LAST_WORDS_SECONDS", 0.5)


def command(program: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM + textwrap.dedent(program)]


def test_the_lead_speaks_for_all(attempt: Path) -> None:
    outcome = run_ranks(attempt, 3, StopSignals(attempt), command=command("say('succeeded', summary={'loss': float(rank)})"))
    assert outcome.summary == {"loss": 0.0}


def test_the_lead_may_take_its_time_after_the_others(attempt: Path) -> None:
    program = "time.sleep(1.2 if rank == '0' else 0); say('interrupted', reason=rank)"
    outcome = run_ranks(attempt, 2, StopSignals(attempt), command=command(program))
    assert (outcome.outcome, outcome.reason) == (Outcome.INTERRUPTED, "0")


def test_the_processes_meet_at_a_socket_that_the_lead_inherits(attempt: Path) -> None:
    program = """
    if listening:
        server = socket.socket(fileno=int(listening[0]))
        say("succeeded", summary={"loss": float(server.accept()[0].recv(1) == b"x")})
    connection = socket.create_connection(("127.0.0.1", int(port)))
    connection.send(b"x")
    say("succeeded")
    """
    assert run_ranks(attempt, 2, StopSignals(attempt), command=command(program)).summary == {"loss": 1.0}


@pytest.mark.parametrize(("death", "status"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("sys.exit(3)", 3)])
def test_one_that_dies_takes_the_others_with_it(death: str, status: int, attempt: Path, clock: Clock) -> None:
    program = f"""
    open(f"{{folder}}/rank-{{rank}}/pid", "w").write(str(os.getpid()))
    if rank == "1":
        {death}
    time.sleep(600)
    """
    with clock.within(30), pytest.raises(Crashed) as caught:
        run_ranks(attempt, 3, StopSignals(attempt), command=command(program))
    assert caught.value.status == status
    assert "Process 2 of 3" in str(caught.value)
    for path in attempt.glob("rank-*/pid"):
        assert not Path(f"/proc/{path.read_text()}").exists()


def test_a_death_explains_the_connection_that_the_lead_lost(attempt: Path) -> None:
    program = """
    if rank == "1":
        open(f"{folder}/dying", "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    while not os.path.exists(f"{folder}/dying"):  # it may have begun much earlier
        time.sleep(0.01)
    time.sleep(0.2)
    say("failed", reason="Connection closed by peer", retry=True)
    """
    with pytest.raises(Crashed, match="SIGSEGV"):
        run_ranks(attempt, 2, StopSignals(attempt), command=command(program))


def test_the_reason_of_one_counts_before_the_lost_connection_of_another(attempt: Path) -> None:
    program = """
    if rank == "1":
        say("failed", reason="The GPU ran out of memory.", retry=False)
    time.sleep(0.2)
    say("failed", reason="Connection closed by peer", retry=True)
    """
    outcome = run_ranks(attempt, 2, StopSignals(attempt), command=command(program))
    assert (outcome.reason, outcome.retry) == ("The GPU ran out of memory.", False)


def test_a_lead_that_was_cancelled_does_not_wait_for_the_others(attempt: Path) -> None:
    program = "say('cancelled') if rank == '0' else time.sleep(60)"
    assert run_ranks(attempt, 2, StopSignals(attempt), command=command(program)).outcome is Outcome.CANCELLED


def test_a_wish_to_stop_reaches_the_lead_alone(attempt: Path) -> None:
    stop = StopSignals(attempt)

    def ask() -> None:
        while len(list(attempt.glob("rank-*/ready"))) < 2:
            time.sleep(0.02)
        stop._terminated = True  # as SIGTERM sets it

    threading.Thread(target=ask).start()
    program = """
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    open(f"{folder}/rank-{rank}/ready", "w")
    while len([k for k in range(2) if os.path.exists(f"{folder}/rank-{k}/ready")]) < 2:
        time.sleep(0.01)
    for _ in range(500 if rank == "0" else 5):
        if asked:
            break
        time.sleep(0.02)
    say("interrupted", reason=f"asked {len(asked)}") if rank == "0" else say("succeeded" if not asked else "failed")
    """
    outcome = run_ranks(attempt, 2, stop, command=command(program))
    told = json.loads((attempt / "rank-1" / "outcome.json").read_text())
    assert (outcome.reason, told["outcome"]) == ("asked 1", "succeeded")


def test_a_lead_that_was_told_to_go_before_it_could_listen_was_interrupted(attempt: Path) -> None:
    stop = StopSignals(attempt)
    stop._terminated = True
    outcome = run_ranks(attempt, 2, stop, command=command("time.sleep(60)"))
    assert (outcome.outcome, outcome.reason) == (Outcome.INTERRUPTED, "the worker was told to stop")
