"""The previewing process: `python -m worker.preview [IDLE_SECONDS]`.

One PreviewJob or ReadingJob a line in, {"result"} or {"error"} a line out; errors are sentences: {"error": {"code", "detail",
"problems"}}. It is warm: torch is imported once and the last few scorings stay in memory. It ends by itself after ten idle
minutes and when stdin ends.
"""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from app.domain.errors import InvalidInput, StudioError
from app.domain.preview.readings import AnyReading, ConversationRequest, ReadingJob
from app.domain.preview.weights import PreviewJob, PreviewResult
from app.domain.problems import parse
from app.system.child import read_jobs
from app.system.fork import Exceeded, work_apart
from worker.preview.grid import preview
from worker.preview.scores import KeptScorings

IDLE_SECONDS = 600.0
READ_SECONDS, WAIT_SECONDS, READ_BYTES = 40, 50.0, 3 * 2**30  # of one reading
UNEXPECTED = "The preview could not be computed: something unexpected happened. The worker's log says what."
MEMORY = "The preview needs more memory than there is: ask for fewer λ, presets or batch sizes."
TOO_MUCH = (
    "Reading the texts takes more than {seconds} s of processor time or {gib} GiB of memory: the chat template may come to no "
    "end, or a text of the data set is of many megabytes."
)
ENDLESS = (
    "Reading this conversation takes more than {seconds} s of processor time or {gib} GiB of memory: the chat template comes to "
    "no end. Mend its loop, or take a model with another template."
)
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
    return guard(line, lambda: compute(json.loads(line), kept))


def compute(asked: Any, kept: KeptScorings) -> dict[str, Any]:
    """Return the reply to a PreviewJob, or to a ReadingJob: that is read in a copy of this process, as templates are programs."""
    if not (isinstance(asked, dict) and isinstance(asked.get("request"), dict) and "kind" in asked["request"]):
        return tell(preview(parse(PreviewJob, asked, InvalidInput), kept))
    job = parse(ReadingJob, asked, InvalidInput)
    too_much = find_refusal(job)
    from worker.models.rendering.renderer import RENDERER  # transformers takes seconds, which weights need not wait for
    from worker.preview.readings import read

    def read_here() -> dict[str, Any]:
        RENDERER.stay_here()
        return tell(read(job))

    try:
        return work_apart(
            lambda: guard(job.model_dump_json().encode(), read_here, memory=too_much),
            cpu_seconds=READ_SECONDS, memory_bytes=READ_BYTES, wait_seconds=WAIT_SECONDS,
        )  # fmt: skip
    except Exceeded:
        return too_much


def find_refusal(job: ReadingJob) -> dict[str, Any]:
    """Return what is said when a reading takes too much: of a conversation, short as it is, by the template's own fault, which
    does not pass."""
    limits = {"seconds": READ_SECONDS, "gib": READ_BYTES // 2**30}
    if isinstance(job.request, ConversationRequest):
        sentence = ENDLESS.format(**limits)
        return refusal(InvalidInput("").code, sentence, [{"field": "chat_template", "message": sentence}])
    return refusal("unavailable", TOO_MUCH.format(**limits))


def tell(result: PreviewResult | AnyReading) -> dict[str, Any]:
    return {"result": result.model_dump(mode="json", by_alias=True)}


def guard(line: bytes, work: Callable[[], dict[str, Any]], memory: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the reply that `work` makes, or what is wrong, in a sentence; `memory`: the refusal for want of memory."""
    try:
        return work()
    except StudioError as error:
        return refusal(error.code, error.detail, error.problems)
    except MemoryError:
        return memory or refusal("unavailable", MEMORY)
    except Exception:
        log.exception("unexpected, with %s", line[:1000].decode("utf-8", "replace"))
        return refusal("studio-error", UNEXPECTED)


def refusal(code: str, detail: str, problems: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "detail": detail, "problems": problems or []}}


if __name__ == "__main__":
    main()
