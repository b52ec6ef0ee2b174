"""A run of several processes: started together, ended together, with one outcome. No torch here.

    attempts/<n>/rank-1/events.jsonl  artifacts/     what the processes other than the lead would have told and written
    attempts/<n>/rank-<k>/outcome.json               each one's last word

The lead (rank 0) writes the attempt's own spool; its last line, the outcome, is written by the runner when all have ended.
SIGTERM is passed on to the lead, which tells the others at the next step. When one process dies, all are ended.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from app.domain.events import OutcomeReached
from app.domain.run import EXIT_STATUS, Outcome
from app.system.installation import inherit_environment, module_command
from worker.running.stop import StopSignals

RANK_COMMAND = tuple(module_command("worker.rank"))
POLL_SECONDS = 0.05
LAST_WORDS_SECONDS = 5.0  # after one has ended: for the others to find out, and to say why
OUTCOME = "outcome.json"
STOPPED = tuple(status for outcome, status in EXIT_STATUS.items() if outcome is not Outcome.FAILED)


class Crashed(Exception):
    """A process ended without a word; `status` is its exit status, or minus the signal that ended it."""

    def __init__(self, rank: int, size: int, status: int) -> None:
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        super().__init__(f"Process {rank + 1} of {size} of this run was ended {how}; the others were stopped with it.")
        self.status = status


def run_ranks(attempt_dir: Path, size: int, stop: StopSignals, *, command: Sequence[str] = RANK_COMMAND) -> OutcomeReached:
    """Run all processes to their common end; raises Crashed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(size)
        port, descriptor = listening.getsockname()[1], listening.fileno()
        ranks = [_start(command, attempt_dir, rank, size, port, descriptor) for rank in range(size)]
    try:
        first = _watch(ranks, stop)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    statuses = [rank.returncode for rank in ranks]
    found = stop.find()
    if statuses[0] == -signal.SIGTERM and found is not None:  # it was asked before it could listen
        return OutcomeReached(outcome=found.outcome, reason=found.reason)
    return _judge([_read_outcome(attempt_dir, rank) for rank in range(size)], statuses, first)


def rank_folder(attempt_dir: Path, rank: int) -> Path:
    return attempt_dir / f"rank-{rank}"


def _start(
    command: Sequence[str], attempt_dir: Path, rank: int, size: int, port: int, descriptor: int
) -> "subprocess.Popen[bytes]":
    rank_folder(attempt_dir, rank).mkdir(exist_ok=True)
    (rank_folder(attempt_dir, rank) / OUTCOME).unlink(missing_ok=True)
    told = [str(attempt_dir), str(rank), str(size), str(port), *([str(descriptor)] if rank == 0 else [])]
    loopback = "lo" if Path("/sys/class/net/lo").exists() else "lo0"  # the processes of a run are on one machine
    return subprocess.Popen(
        [*command, *told],
        stdin=subprocess.DEVNULL,
        pass_fds=[descriptor] if rank == 0 else [],
        env=inherit_environment(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback),
    )


def _watch(ranks: "Sequence[subprocess.Popen[bytes]]", stop: StopSignals) -> int | None:
    """Wait for the end of all; returns the first that failed or died. The others then have time for their last words."""
    first, deadline, passed_on = None, float("inf"), False
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        found = None if passed_on else stop.find()
        if found is not None and found.saves:
            passed_on = True
            ranks[0].send_signal(signal.SIGTERM)
        bad = [k for k, rank in enumerate(ranks) if rank.poll() is not None and rank.returncode not in STOPPED]
        if first is None and bad:
            first = min(bad, key=lambda k: ranks[k].returncode)  # a signal before any status
            deadline = time.monotonic() + LAST_WORDS_SECONDS
        elif ranks[0].poll() is not None:
            deadline = min(deadline, time.monotonic() + LAST_WORDS_SECONDS)
        time.sleep(POLL_SECONDS)
    return first


def _judge(outcomes: "Sequence[OutcomeReached | None]", statuses: Sequence[int], first: int | None) -> OutcomeReached:
    """Return the lead decides unless it failed; else the process that died of itself; else the failure that came first."""
    lead, size = outcomes[0], len(outcomes)
    if lead is not None and lead.outcome is not Outcome.FAILED:
        return lead
    if first is not None and outcomes[first] is None:
        raise Crashed(first, size, statuses[first])
    told = [outcome for outcome in (outcomes[first or 0], *outcomes) if outcome is not None]
    for outcome in (
        *(outcome_told for outcome_told in told if not outcome_told.retry),
        *told,
    ):  # a reason of its own before a lost connection
        if outcome.outcome is Outcome.FAILED:
            return outcome
    raise Crashed(first or 0, size, statuses[first or 0])


def _read_outcome(attempt_dir: Path, rank: int) -> OutcomeReached | None:
    try:
        return OutcomeReached.model_validate(json.loads((rank_folder(attempt_dir, rank) / OUTCOME).read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


def die_like(crashed: Crashed) -> int:
    """End this process by the signal that ended its rank, so that whoever watches judges it alike; else the status."""
    if crashed.status < 0:
        sys.stderr.flush()
        number = signal.Signals(-crashed.status)
        if number is not signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return crashed.status
