"""One process of several at one attempt, as worker.launcher starts it:

    python -m worker.rank ATTEMPT_DIR RANK SIZE PORT [LISTENING]

It runs the whole course beside the others, leaves its outcome in rank-<k>/outcome.json, and ends with that outcome's status.
"""

import os
import signal
import sys
from pathlib import Path

from app.domain.events import OutcomeReached
from app.domain.run import EXIT_STATUS, Outcome
from app.system.limits import count_cores
from worker.runner import import_course, judge, read_spec, run_alone
from worker.running.ranks import OUTCOME, rank_folder
from worker.running.stop import StopSignals


def main(argv: list[str]) -> int:
    """Run as the process `argv` says; returns the exit status."""
    attempt_dir, (rank, size, port), descriptors = Path(argv[0]), map(int, argv[1:4]), argv[4:]
    folder = rank_folder(attempt_dir, rank)
    stop = StopSignals(attempt_dir)
    if rank == 0:
        stop.listen()
        stop.watch(os.getppid())
    else:
        stop = StopSignals(folder)  # the lead alone decides, and tells
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    outcome = _run(attempt_dir, folder, (rank, size, port, int(descriptors[0]) if descriptors else None), stop)
    (folder / OUTCOME).write_text(outcome.model_dump_json(), encoding="utf-8")
    return EXIT_STATUS[outcome.outcome]


def _run(attempt_dir: Path, folder: Path, place: tuple[int, int, int, int | None], stop: StopSignals) -> OutcomeReached:
    try:
        spec = read_spec(attempt_dir)
        num_threads = spec.num_threads or max(1, count_cores() // spec.num_processes)
        spec = spec.model_copy(update={"num_threads": num_threads})  # of each process
        import_course()
        from worker.models import parallel

        ranks = parallel.join(*place, spec.device)
    except Exception as error:
        return judge(error)
    outcome = run_alone(spec, attempt_dir if ranks.is_lead else folder, stop, ranks)
    if outcome.outcome is Outcome.SUCCEEDED:
        parallel.leave(ranks)
    return outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
