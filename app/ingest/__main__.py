"""The child process that reads uploads: `python -m app.ingest`, one JSON job a line in, one JSON reply a line out.

Job: {"source", "target", "mapping"?, "max_unpacked_bytes", "cpu_seconds"}.
Reply: {"status": "ready", "mapping", "audit"} or {"status": "needs_mapping" | "invalid", "error": {"code", "detail", …}}.
Memory and processor time are limited by the kernel, so a hostile file ends this process at worst.
"""

import errno
import gc
import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid, MappingNeeded, StudioError, Unavailable
from app.domain.texts import make_keepable
from app.ingest.ingest import ingest
from app.ingest.limits import Limits
from app.system.child import read_jobs
from app.system.limits import limit_memory, limit_processor

MEMORY_BYTES = 512 * 2**20  # on top of what the libraries take themselves
TOO_MUCH_MEMORY = "Reading the file needs more memory than is allowed: single rows of it are too large or too deeply nested."
DISK_FULL = "The disk is full: free some space on the studio's machine, then upload the file again."
log = logging.getLogger("app.ingest")


def main() -> None:
    """Work until stdin ends."""
    logging.basicConfig(format="ingest: %(levelname)s %(message)s")
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    os.nice(5)  # pages come first
    limit_memory(MEMORY_BYTES)
    gc.disable()  # rows are trees, freed by counting; searching millions of them for cycles costs more than reading them
    gc.freeze()
    for line, reply in read_jobs():
        job = json.loads(line)
        limit_processor(job["cpu_seconds"])
        told, usable = answer(job)
        reply(told)
        if not usable:
            return
        gc.collect()


def answer(job: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Do one job; the reply, and whether this process is fit for another one."""
    mapping = ColumnMapping.model_validate(job["mapping"]) if job.get("mapping") else None
    try:
        done = ingest(Path(job["source"]), Path(job["target"]), mapping, Limits(max_unpacked_bytes=job["max_unpacked_bytes"]))
    except StudioError as error:
        return refusal(error), True
    except OSError as error:
        return refusal(as_studio_error(error)), True
    except MemoryError:
        return refusal(DatasetInvalid(TOO_MUCH_MEMORY)), False
    except Exception:
        log.exception("unexpected, with %s", job["source"])
        return refusal(DatasetInvalid("The file can't be read: it breaks the reader in a way we did not foresee.")), False
    return {"status": "ready", "mapping": done.mapping.model_dump(mode="json"), "audit": done.audit.model_dump(mode="json")}, True


def as_studio_error(error: OSError) -> StudioError:
    """Tell a full disk, which is not the file's fault, from a bad file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(DISK_FULL, retry_after_seconds=60)
    log.error("the system says: %s", error)
    return Unavailable(f"The file could not be processed: {error.strerror or 'the system refused it'}. Try again.")


def refusal(error: StudioError) -> dict[str, Any]:
    """Return the reply that carries an error."""
    status = "needs_mapping" if isinstance(error, MappingNeeded) else "invalid"
    problems = [{**problem, "message": make_keepable(problem["message"])} for problem in error.problems]
    facts = {"code": error.code, "detail": make_keepable(error.detail), "problems": problems, "extra": error.extra}
    return {"status": status, "error": facts}


if __name__ == "__main__":
    main()
