"""A run recorded by the recordings service at an even pace: `python -m tests.bench.recorder DATA_DIR RATE SECONDS`.

Claims the run that is next in line, waits for a line on stdin, records `RATE` steps a second, each in a transaction of its
own, and finishes the run. Each event's `at` is the moment before its transaction. Prints how many it recorded.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from app.domain.events import OutcomeReached, SpoolLine
from app.domain.run import Outcome
from app.services import attempts, recordings
from app.settings import Settings
from app.store.database import Database

KEYS = ("loss", "grad_norm", "learning_rate", "tokens_per_second", "weight/ess", "weight/share_above", "weight/entropy")


def line(number: int, num_steps: int) -> SpoolLine:
    payload = {
        "step": number, "num_steps": num_steps, "epoch": number / num_steps, "batch": number - 1,
        "metrics": {key: 1.0 / (number + place) for place, key in enumerate(KEYS)},
        "histogram": list(range(24)), "seconds_left": 1.0,
    }  # fmt: skip
    return SpoolLine(n=number, at=datetime.now(UTC).isoformat(), kind="step", payload=payload)


def main(data_dir: str, rate: float, seconds: float) -> None:
    database = Database(Settings(_env_file=None, data_dir=Path(data_dir)))
    with database.writing() as session:
        claim = attempts.begin(session, "recorder", lease_seconds=3600)
        assert claim is not None
        attempts.open_spool(session, claim)
    print(claim.run_id, flush=True)
    sys.stdin.readline()
    num_steps = int(rate * seconds)
    began = time.monotonic()
    for number in range(1, num_steps + 1):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        with database.writing() as session:
            recordings.record(session, claim.run_id, claim.token, [line(number, num_steps)])
    with database.writing() as session:
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
    database.close()
    print(json.dumps({"num_recorded": num_steps}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
