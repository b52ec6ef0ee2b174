"""What this process may take of the machine, and limits past which the kernel ends it: for what strangers wrote."""

import os
import resource
from contextlib import suppress

import psutil


def count_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_memory(more_bytes: int) -> None:
    """Limit the address space to what is mapped now and so much more, where the system can (macOS can't). No core dumps."""
    limit = psutil.Process().memory_info().vms + more_bytes
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_data(most_bytes: int) -> None:
    """Limit the memory that this process may write and shares with nobody, from its start on, where the system can."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


def find_data_limit() -> int | None:
    """Return the limit on the memory that this process may write; None where there is none."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def limit_processor(seconds: int) -> None:
    """Limit the processor time from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))
