"""The previewing process: `python -m worker.preview [IDLE_SECONDS]`.

One PreviewJob a line in, {"result"} or {"error"} a line out; errors are sentences: {"error": {"code", "detail", "problems"}}.
It is warm: torch is imported once and the last few scorings stay in memory. It ends by itself after ten idle minutes and when
stdin ends.
"""

import json
import logging
import sys
from typing import Any

from app.domain.errors import InvalidInput, StudioError
from app.domain.preview import PreviewJob
from app.domain.problems import parse
from app.system.child import read_jobs
from worker.preview.grid import preview
from worker.preview.scores import KeptScorings

IDLE_SECONDS = 600.0
UNEXPECTED = "The preview could not be computed: something unexpected happened. The worker's log says what."
MEMORY = "The preview needs more memory than there is: ask for fewer λ, presets or batch sizes."
log = logging.getLogger("worker.preview")


def main() -> None:
    """Answer until stdin ends or nothing is asked for a while."""
    logging.basicConfig(format="preview: %(levelname)s %(message)s")
    kept = KeptScorings()
    idle_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else IDLE_SECONDS
    for line, reply in read_jobs(idle_seconds):
        reply(answer(line, kept))


def answer(line: bytes, kept: KeptScorings) -> dict[str, Any]:
    """Return the reply to one job."""
    try:
        job = parse(PreviewJob, json.loads(line), InvalidInput)
        return {"result": preview(job, kept).model_dump(mode="json", by_alias=True)}
    except StudioError as error:
        return refusal(error.code, error.detail, error.problems)
    except MemoryError:
        return refusal("unavailable", MEMORY)
    except Exception:
        log.exception("unexpected, with %s", line[:1000].decode("utf-8", "replace"))
        return refusal("studio-error", UNEXPECTED)


def refusal(code: str, detail: str, problems: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "detail": detail, "problems": problems or []}}


if __name__ == "__main__":
    main()
