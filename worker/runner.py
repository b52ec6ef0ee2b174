"""One attempt at a run, from its spec to its artifacts:

    python -m worker.runner ATTEMPT_DIR

Reads spec.json there, appends events to events.jsonl, keeps checkpoints and artifacts in the run's folder, and ends with the
exit status of its outcome (app.domain.run.EXIT_STATUS). It knows no database: it runs as well without any server.
One process for now; with several, rank 0 is the one that owns the spool and the folders.
"""

import sys
import traceback
from pathlib import Path

from pydantic import ValidationError

from app.domain.errors import InvalidInput
from app.domain.events import LogWritten, OutcomeReached
from app.domain.jobs import RunSpec
from app.domain.run import EXIT_STATUS, Outcome
from worker.failures import explain
from worker.spool import Spool
from worker.stop import Stopped, StopSignals


def main(argv: list[str]) -> int:
    """Run the attempt in the folder `argv[0]`; returns the exit status."""
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        sys.stderr.write("usage: python -m worker.runner ATTEMPT_DIR (a folder with spec.json)\n")
        return 2
    attempt_dir = Path(argv[0]).resolve()
    stop = StopSignals(attempt_dir)
    stop.listen()  # before the slow imports, so that no signal finds the default handler
    spool = Spool(attempt_dir / "events.jsonl")
    outcome = _run_to_outcome(attempt_dir, spool, stop)
    try:
        spool.write(outcome)
        spool.sync()
    except OSError as error:
        sys.stderr.write(f"The outcome ({outcome.outcome}: {outcome.reason}) could not be written: {error}\n")
        return EXIT_STATUS[Outcome.FAILED]
    finally:
        spool.close()
    return EXIT_STATUS[outcome.outcome]


def _run_to_outcome(attempt_dir: Path, spool: Spool, stop: StopSignals) -> OutcomeReached:
    try:
        spec = read_spec(attempt_dir)
        stop.watch(spec.supervisor_pid)
        stop.check()
        from worker.stages.course import run_course  # imports torch: seconds, and only now

        return OutcomeReached.model_validate({"outcome": Outcome.SUCCEEDED, "summary": run_course(spec, spool, stop)})
    except Stopped as stopped:
        return OutcomeReached(outcome=stopped.outcome, reason=stopped.reason)
    except (Exception, KeyboardInterrupt) as error:  # the last word must be said whatever happened
        traceback.print_exc()
        outcome = explain(error)
        if outcome.retry:
            _log_trace(spool, error)
        return outcome


def read_spec(attempt_dir: Path) -> RunSpec:
    """The attempt's spec; raises InvalidInput."""
    try:
        return RunSpec.model_validate_json((attempt_dir / "spec.json").read_bytes())
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
        sys.stderr.write(f"The trace could not be written to the spool: {full}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
