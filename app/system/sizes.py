"""Sizes in words."""

UNITS = ("B", "kB", "MB", "GB")


def describe_size(num_bytes: float) -> str:
    """Return a number of bytes in the unit that reads best: three digits at most (1 kB = 1000 B)."""
    for unit in UNITS:
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
