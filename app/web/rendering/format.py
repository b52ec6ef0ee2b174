"""How numbers, sizes, times and names are written on the pages; each is a Jinja filter of the same name."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from app.system import numbers
from app.system.numbers import MINUS, NOTHING, THIN, count, counted, number, signed


def exact(value: float | None) -> str:
    """As a person would type it into a form: 0.1, 1e-05, 8; empty when there is no number."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def percent(value: float | None, decimals: int = 0) -> str:
    """Return a share of one as per cent."""
    return numbers.percent(value, decimals).replace(" ", THIN).replace("-", MINUS)


def size(value: float | None) -> str:
    """Bytes in the unit that reads best (1 kB = 1000 B)."""
    if value is None:
        return NOTHING
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def parameters(number: int | None) -> str:
    """Return how large a model is: `260 k`, `135 M`, `7.2 B`."""
    if number is None:
        return NOTHING
    amount = float(number)
    for unit in ("", "k", "M"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}".rstrip() if amount >= 10 or not unit else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.0f} B" if amount >= 10 else f"{amount:.1f} B"


def duration(seconds: float | None) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds is None:
        return NOTHING
    whole = max(0, round(seconds))
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(at: datetime | None) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `12 d ago`."""
    if at is None:
        return NOTHING
    seconds = (datetime.now(UTC) - at).total_seconds()
    for unit_seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_seconds:
            return f"{int(seconds // unit_seconds)} {unit} ago"
    return "just now"


def clock(at: datetime | str | None) -> str:
    """Return the time of day, UTC, to the second."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    return NOTHING if moment is None else f"{moment.astimezone(UTC):%H:%M:%S}"


def day(at: datetime | None) -> str:
    """Return the date, UTC."""
    return NOTHING if at is None else f"{at.astimezone(UTC):%Y-%m-%d}"


def iso(at: datetime | None) -> str:
    """For the datetime attribute of `<time>`."""
    return "" if at is None else at.isoformat(timespec="seconds")


def words(name: str) -> str:
    """`needs_mapping` → `needs mapping`."""
    return name.replace("_", " ")


def metric(metrics: Mapping[str, Any] | None, key: str) -> float | None:
    """Return a metric of an event's payload or of a run's summary, None when it wasn't measured."""
    value = (metrics or {}).get(key)
    return value if isinstance(value, int | float) else None


def holds(audit: Mapping[str, Any] | None) -> str:
    """Return what says in a data set which response is better: pairs, ratings, or labels of single responses."""
    facts = audit or {}
    parts = [
        counted(facts["num_pairs"], "pair") if facts.get("num_pairs") else "",
        "ratings" if facts.get("has_rating") else "",
        "labels of single responses" if facts.get("has_preference") and not facts.get("num_pairs") else "",
    ]
    return ", ".join(part for part in parts if part) or NOTHING


def visible(text: str) -> str:
    """Return a token's text with its line breaks and tabs to be seen."""
    return text.replace("\n", "⏎\n").replace("\t", "⇥").replace("\r", "␍")


def as_yaml(value: Any) -> str:
    """YAML for people and for `varstudio`: in the order of the fields, long texts unbroken."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number, "exact": exact, "count_of": count, "signed": signed, "percent": percent, "size": size, "duration": duration,
    "parameters": parameters,
    "ago": ago, "clock": clock, "day": day, "iso": iso, "words": words, "metric": metric,
    "yaml": as_yaml, "counted": counted, "holds": holds, "visible": visible,
}  # fmt: skip
