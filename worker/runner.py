"""One attempt at a run, from its spec to its artifacts:

    python -m worker.runner ATTEMPT_DIR
    python -m worker.runner --wait    which imports first, then reads the folder from its standard input

Reads spec.json there, appends events to events.jsonl, keeps checkpoints and artifacts in the run's folder, and ends with the
exit status of its outcome (app.domain.run.EXIT_STATUS). It knows no database: it runs as well without any server.
With several processes it starts them (worker.running.ranks), and says their common outcome.
"""

import gc
import os
import sys
import traceback
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from app.domain.answering.job import AnswersSpec, read_job
from app.domain.errors import InvalidInput
from app.domain.events import Event, LogWritten, OutcomeReached
from app.domain.jobs import RunSpec
from app.domain.run import EXIT_STATUS, UNWRITTEN_STATUS, Outcome
from app.system.limits import limit_data
from worker.running.failures import explain
from worker.running.ranks import Crashed, die_like, run_ranks
from worker.running.spool import Spool
from worker.running.stop import Stopped, StopSignals

if TYPE_CHECKING:
    from worker.models.parallel import Ranks


def main(argv: list[str]) -> int:
    """Run the attempt in the folder `argv[0]`, or in the one that it is told; returns the exit status."""
    if argv == ["--wait"]:
        argv = await_attempt()
        if not argv:
            return 0
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        sys.stderr.write("usage: python -m worker.runner ATTEMPT_DIR (a folder with spec.json)\n")
        return 2
    attempt_dir = Path(argv[0]).resolve()
    stop = StopSignals(attempt_dir)
    stop.listen()  # before the slow imports, so that no signal finds the default handler
    try:
        outcome = _run_to_outcome(attempt_dir, stop)
    except Crashed as crashed:
        _say(attempt_dir, LogWritten(level="error", text=str(crashed)))
        return die_like(crashed)
    return EXIT_STATUS[outcome.outcome] if _say(attempt_dir, outcome) else UNWRITTEN_STATUS


def await_attempt() -> list[str]:
    """Import, then return the folder in the first line of standard input; nothing when that ends without one.

    From then on what is written goes to the attempt's log, and what is left of standard input are the keys of endpoints.
    """
    import_course()
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return []
    attempt_dir = os.fsdecode(line[:-1])
    log = os.open(Path(attempt_dir) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return [attempt_dir]


def _run_to_outcome(attempt_dir: Path, stop: StopSignals) -> OutcomeReached:
    try:
        spec = read_spec(attempt_dir)
        stop.watch(spec.supervisor_pid)
        stop.check()
    except (Stopped, InvalidInput) as error:
        return judge(error)
    if spec.num_processes > 1:
        return run_ranks(attempt_dir, spec.num_processes, stop)
    return run_alone(spec, attempt_dir, stop)


def run_alone(spec: RunSpec | AnswersSpec, attempt_dir: Path, stop: StopSignals, ranks: "Ranks | None" = None) -> OutcomeReached:
    """Run the course in this process, which is the only one or, with `ranks`, one of several."""
    spool = Spool(attempt_dir / "events.jsonl")
    if spec.memory_bytes:
        limit_data(spec.memory_bytes)
    try:
        if isinstance(spec, AnswersSpec) and not spec.has_model_here:
            summary = run_light(spec, spool, stop)
        else:
            summary = run_heavy(spec, spool, stop, ranks)
        return OutcomeReached.model_validate({"outcome": Outcome.SUCCEEDED, "summary": summary})
    except (Exception, KeyboardInterrupt) as error:  # the last word must be said whatever happened
        outcome = judge(error)
        if outcome.retry and outcome.outcome is Outcome.FAILED:
            _log_trace(spool, error)
        return outcome
    finally:
        spool.close()


def run_light(spec: AnswersSpec, spool: Spool, stop: StopSignals) -> dict[str, float | None]:
    """Run what asks only models elsewhere, behind endpoints: torch is not imported for it."""
    from worker.stages.answering.stage import answer_and_judge
    from worker.stages.job import JobContext

    return answer_and_judge(JobContext(spec, spool, stop), spec)


def run_heavy(spec: RunSpec | AnswersSpec, spool: Spool, stop: StopSignals, ranks: "Ranks | None") -> dict[str, float | None]:
    """Run what needs torch."""
    import_course()
    from worker.models.parallel import ALONE
    from worker.stages.pipeline import run_course

    return run_course(spec, spool, stop, ranks or ALONE)


@cache
def import_course() -> None:
    """Import torch and what runs on it: seconds, and only now.

    What imports make stays to the end: the garbage collector looks through it neither meanwhile nor, for every collection
    that the stages ask for, later.
    """
    gc.disable()
    try:
        import worker.stages.pipeline  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()


def judge(error: BaseException) -> OutcomeReached:
    """Return the outcome of an attempt that ended with this exception."""
    if isinstance(error, Stopped):
        return OutcomeReached(outcome=error.outcome, reason=error.reason)
    _complain("".join(traceback.format_exception(error)))
    return explain(error)


def _complain(text: str) -> None:
    """Write to the log, which may lie on the same full disk as all else: what it refuses must not hide the outcome."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _say(attempt_dir: Path, event: Event) -> bool:
    """Write a last event; False when the disk refuses it."""
    try:
        spool = Spool(attempt_dir / "events.jsonl")
        try:
            spool.write(event)
            spool.sync()
        finally:
            spool.close()
    except OSError as error:
        _complain(f"This could not be written to the spool: {event!r}: {error}\n")
        return False
    return True


def read_spec(attempt_dir: Path) -> RunSpec | AnswersSpec:
    """Return the attempt's spec; raises InvalidInput."""
    try:
        return read_job((attempt_dir / "spec.json").read_bytes())
    except OSError as error:
        raise InvalidInput(f"The attempt's spec.json can't be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"The attempt's spec.json is not valid at {where}: {first['msg']}.") from error


def _log_trace(spool: Spool, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error, limit=-8))
    try:
        spool.write(LogWritten(level="error", text=text[-8000:]))
    except OSError as full:
        _complain(f"The trace could not be written to the spool: {full}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
