"""Numbers as sentences, tables and pages have them; static/format.js writes them alike."""

import math

NOTHING = "–"
MINUS = "−"
THIN = "\N{NARROW NO-BREAK SPACE}"


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits; very small and large ones as a power of ten. `–` when there is no number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa.replace('-', MINUS)}e{int(exponent)}".replace("e-", f"e{MINUS}")
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{min(decimals, 6)}f}".replace(",", THIN).replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text != NOTHING else text


def percent(share: float | None, decimals: int = 0) -> str:
    """`12 %`: a share of one as per cent."""
    return NOTHING if share is None else f"{share * 100:.{decimals}f} %"


def count(value: int | None) -> str:
    """Whole numbers in groups of three."""
    return NOTHING if value is None else f"{value:,}".replace(",", THIN)


def counted(value: int, noun: str) -> str:
    """`1 pair`, `2 pairs`, `2 batches`."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count(value)} {noun}{'' if value == 1 else ending}"
