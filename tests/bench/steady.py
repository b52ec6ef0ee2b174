"""A runner that only logs: `python steady.py SECONDS ATTEMPT_DIR`, ten steps a second of ten metrics each; no torch.

With `work` in place of the seconds it is the worker whose runners those are: `python -m tests.bench.steady work SECONDS`.
"""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

STEPS_PER_SECOND = 10
KEYS = (
    "loss", "grad_norm", "learning_rate", "tokens_per_second", "peak_memory_bytes", "weight/ess_share", "weight/share_above",
    "weight/share_below", "weight/spearman_length", "weight/spearman_reward",
)  # fmt: skip


def run(seconds: float, folder: Path) -> None:
    num_steps = int(seconds * STEPS_PER_SECOND)
    with (folder / "events.jsonl").open("ab") as spool:
        number = 0

        def write(kind: str, **payload: object) -> None:
            nonlocal number
            number += 1
            line = {"n": number, "at": datetime.now(UTC).isoformat(), "kind": kind, "payload": payload}
            spool.write(json.dumps(line).encode() + b"\n")
            spool.flush()

        write("stage", stage="train", total=num_steps, unit="steps")
        began = time.monotonic()
        for step in range(1, num_steps + 1):
            time.sleep(max(0.0, began + step / STEPS_PER_SECOND - time.monotonic()))
            metrics = {key: 1.0 / (step + place) for place, key in enumerate(KEYS)}
            write(
                "step", step=step, num_steps=num_steps, epoch=step / num_steps, batch=step - 1, metrics=metrics,
                histogram=[0, 1, 2, 3, 2, 1], seconds_left=0.1 * (num_steps - step),
            )  # fmt: skip
        write("outcome", outcome="succeeded", summary={"loss": 1.0})


def work(seconds: str) -> None:
    """The real worker, Celery and supervisor."""
    from worker import main

    main.service.runner_command = (sys.executable, str(Path(__file__).resolve()), seconds)
    main.main()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        run(float(sys.argv[1]), Path(sys.argv[2]))
