"""A run's log as text: what its journal says, with times, then what the runner of each attempt printed."""

from collections.abc import Mapping, Sequence

from app.store.tables import JournalEntry

KINDS = ("state", "log")
MAX_ENTRIES = 2000
MAX_ATTEMPTS = 20


def log_of(entries: Sequence[JournalEntry], printed: Mapping[int, str]) -> str:
    """Return the text; `printed` holds the end of the output by attempt."""
    parts = ["".join(f"{line_of(entry)}\n" for entry in entries)]
    parts += [f"== Attempt {number}: the end of what its runner printed ==\n{text}" for number, text in printed.items() if text]
    return "\n".join(part for part in parts if part)


def line_of(entry: JournalEntry) -> str:
    """One entry: when, how grave or "state", what."""
    payload = entry.payload
    if entry.kind == "log":
        kind, text = str(payload["level"]), str(payload["text"])
    else:
        place = f"attempt {payload['attempt']}" if payload["attempt"] else ""
        facts = ", ".join(part for part in (payload["state"], place, payload.get("worker", "")) if part)
        why = " ".join(part for part in (payload.get("reason", ""), payload.get("remedy", "")) if part)
        kind, text = "state", f"{facts}: {why}" if why else facts
    return f"{entry.at.isoformat(timespec='milliseconds')}  {kind:<7}  {text}"
