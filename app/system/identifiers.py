"""Identifiers: a prefix that names the kind, then 26 characters that sort by time (`run_01k…`)."""

import secrets
import threading
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case
RANDOM_BITS = 80

_lock = threading.Lock()
_last = 0


def new_id(prefix: str) -> str:
    """Return a new identifier: milliseconds since 1970 (48 bits), then randomness (80 bits).

    Within a process each one is larger than the one before, so that rows made in one millisecond keep their order.
    """
    global _last
    candidate = (time.time_ns() // 1_000_000 << RANDOM_BITS) | secrets.randbits(RANDOM_BITS)
    with _lock:
        _last = candidate if candidate > _last else _last + 1 + secrets.randbits(32)
        value = _last
    digits = [ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
