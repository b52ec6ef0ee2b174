"""A copy of this process for one piece of work within limits, past which the kernel ends it: for what strangers wrote.

Starting anew would import everything again. The copy has one thread, so no work that needs others may be under way.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from app.system.limits import limit_memory, limit_processor

READ_BYTES = 2**20
MAX_REPLY_BYTES = 32 * 2**20


class Exceeded(Exception):
    """The copy was ended, or was too late: it wanted more of the processor or of the memory than it may have."""


def work_apart(
    work: Callable[[], Mapping[str, Any]], *, cpu_seconds: int, memory_bytes: int, wait_seconds: float
) -> dict[str, Any]:
    """Return the JSON object that `work` makes in a copy of this process; raises Exceeded.

    What `work` raises ends the copy: it should return its errors.
    """
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        _work(work, writes, cpu_seconds, memory_bytes)
    os.close(writes)
    try:
        reply = _read(reads, time.monotonic() + wait_seconds)
    finally:
        os.close(reads)
        os.kill(pid, signal.SIGKILL)  # it has ended, or is to end; its number is ours until it is waited for
        os.waitpid(pid, 0)
    try:
        answer: dict[str, Any] = json.loads(reply)
    except ValueError:
        raise Exceeded("ended") from None
    return answer


def _work(work: Callable[[], Mapping[str, Any]], writes: int, cpu_seconds: int, memory_bytes: int) -> Literal[None]:
    """Work and leave, in the copy; nothing of the original's may be closed or flushed on the way out."""
    try:
        limit_memory(memory_bytes)
        limit_processor(cpu_seconds)
        with os.fdopen(writes, "wb") as stream:
            stream.write(json.dumps(work()).encode())
    finally:
        os._exit(0)


def _read(reads: int, deadline: float) -> bytes:
    reply = bytearray()
    while (left := deadline - time.monotonic()) > 0 and len(reply) <= MAX_REPLY_BYTES:
        if not select.select([reads], [], [], left)[0]:
            break
        piece = os.read(reads, READ_BYTES)
        if not piece:
            return bytes(reply)
        reply += piece
    raise Exceeded("late" if len(reply) <= MAX_REPLY_BYTES else "large")
