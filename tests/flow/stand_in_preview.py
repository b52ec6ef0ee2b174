"""A stand-in for the previewing process: the same protocol, no torch, any mishap, which the request's `noise_seed` chooses.

1 dies, 2 hangs, 3 answers garbage, 4 answers without end, 5 says what is wrong, 6 takes two seconds; others are answered
with the process's number as `num_batches`. With `leave FILE` the first process leaves instead of answering.
"""

import json
import os
import sys
import time
from pathlib import Path

CHECK = {
    "num_responses": 20, "num_pairs": 10, "num_ties": 0, "accuracy": 0.7, "low": 0.4, "high": 0.9, "length_accuracy": 0.5,
    "length_low": 0.2, "length_high": 0.8, "mean": 0.0, "std": 1.0, "chosen_mean": 0.5, "rejected_mean": -0.5,
    "edges": [-1.0, 0.0, 1.0], "counts": [10, 10], "inverted": False, "flat": False,
}  # fmt: skip


def answer(job: dict[str, object]) -> dict[str, object]:
    request = job["request"]
    assert isinstance(request, dict)
    match request["noise_seed"]:
        case 1:
            sys.exit(3)
        case 2:
            time.sleep(600)
        case 3:
            return {"what": os.environ["CUDA_VISIBLE_DEVICES"]}
        case 4:
            while True:
                sys.stdout.write("x" * 2**20)
        case 5:
            return {
                "error": {"code": "conflict", "detail": "The scores are gone.", "problems": [{"field": "", "message": "gone"}]}
            }
        case 6:
            time.sleep(4)
    numbers = {"num_batches": os.getpid(), "num_responses": 20, "seconds": 0.1}
    return {"result": {"cells": [], "suggestions": [], "check": CHECK, "findings": [], **numbers}}


for line in sys.stdin:
    if "leave" in sys.argv and not Path(sys.argv[2]).exists():
        Path(sys.argv[2]).touch()
        sys.exit(0)
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
