"""The previewing process: `python -m worker.preview [IDLE_SECONDS]`.

One PreviewJob a line in, {"result"} or {"error"} a line out; errors are sentences: {"error": {"code", "detail", "problems"}}.
It is warm: torch is imported once and the last few scorings stay in memory. It ends by itself after ten idle minutes and when
stdin ends.
"""

import json
import logging
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from app.domain.errors import InvalidInput, StudioError
from app.domain.preview import PreviewJob
from app.domain.problems import parse
from worker.preview.grid import preview
from worker.preview.scores import KeptScorings

IDLE_SECONDS = 600.0
READ_BYTES = 1 << 16
UNEXPECTED = "The preview could not be computed: something unexpected happened. The worker's log says what."
MEMORY = "The preview needs more memory than there is: ask for fewer λ, presets or batch sizes."
log = logging.getLogger("worker.preview")


def main() -> None:
    """Answer until stdin ends or nothing is asked for a while. What is printed by accident goes to stderr."""
    logging.basicConfig(format="preview: %(levelname)s %(message)s")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    kept = KeptScorings()
    idle_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else IDLE_SECONDS
    for line in read_lines(0, idle_seconds):
        answers.write(json.dumps(answer(line, kept), ensure_ascii=False) + "\n")
        answers.flush()


def read_lines(descriptor: int, idle_seconds: float) -> Iterator[bytes]:
    """Lines as they come; ends with the input, or when none has come for `idle_seconds`."""
    waiting = bytearray()
    while True:
        ready, _, _ = select.select([descriptor], [], [], idle_seconds)
        piece = os.read(descriptor, READ_BYTES) if ready else b""
        if not piece:
            return
        waiting += piece
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            yield bytes(line)


def answer(line: bytes, kept: KeptScorings) -> dict[str, Any]:
    """The reply to one job."""
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
