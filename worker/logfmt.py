"""Log lines for machines and people: `at=… level=… logger=… run=… attempt=… message="…"`."""

import json
import logging
from datetime import UTC, datetime

QUOTED = (" ", '"', "=", "\n")


class LogfmtFormatter(logging.Formatter):
    """One line per record; a traceback follows it on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": getattr(record, "run_id", None),
            "attempt": getattr(record, "attempt", None),
            "message": record.getMessage(),
        }
        line = " ".join(f"{key}={quote(str(value))}" for key, value in fields.items() if value is not None)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def quote(value: str) -> str:
    """The value, in quotes where it holds a separator."""
    return json.dumps(value, ensure_ascii=False) if not value or any(mark in value for mark in QUOTED) else value
