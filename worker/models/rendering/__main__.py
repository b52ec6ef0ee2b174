"""`python -m worker.models.rendering CPU_SECONDS`: conversations in, a JSON line at a time, what a template writes of each out.

{"template", "variables", "asked": [[turns, tools, begins_answer], …]} → {"told": [[outcome, text], …]}. It ends when nothing
is asked for a while and with stdin; past its memory or its processor time the kernel ends it.
"""

import json
import sys
from typing import Any

from app.system.child import read_jobs
from app.system.limits import limit_memory, limit_processor
from worker.models.rendering.asked import MEMORY_BYTES, Asked, Rendered
from worker.models.rendering.writing import write

IDLE_SECONDS = 120.0


def main() -> None:
    """Answer until stdin ends or nothing is asked for a while."""
    cpu_seconds = int(sys.argv[1])
    limit_memory(MEMORY_BYTES)
    for line, reply in read_jobs(IDLE_SECONDS):
        job = json.loads(line)
        reply({"told": [answer(job, Asked(*asked), cpu_seconds) for asked in job["asked"]]})


def answer(job: dict[str, Any], asked: Asked, cpu_seconds: int) -> Rendered:
    """Return what becomes of one conversation, within processor time of its own."""
    limit_processor(cpu_seconds)
    return write(job["template"], job["variables"], asked)


if __name__ == "__main__":
    main()
