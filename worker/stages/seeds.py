"""A seed for each use."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """Return a seed of its own for each use, so that changing one never shifts another."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 2**63
