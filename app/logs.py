"""Log lines of web, worker and `varstudio up`: one format for all, each line with the ids of what it belongs to.

    at=2026-11-27T17:35:37.256+00:00 level=info logger=worker.supervisor run_id=run_… attempt=1 worker=gpu-1 message="started …"

`configure` is called once per process, by its entry. `bound` names the run, attempt or request that the lines inside belong
to, in this thread and in the tasks and worker threads that it starts.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

IDS = ("run_id", "attempt", "worker", "request_id")
# Celery's two lines for every hint, and Alembic's for every look at the tables, tell nobody anything.
QUIET = ("celery.worker.strategy", "celery.app.trace", "alembic.runtime.migration")
SECRETS = (
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1…@"),  # a password in an address
    (re.compile(r"(?i)(bearer\s+)[\w.~+/=-]+"), r"\1…"),
    (re.compile(r"(/login/)[\w-]+"), r"\1…"),
)
NEEDS_QUOTES = re.compile(r'[\s"=\\]')

_ids: ContextVar[dict[str, Any]] = ContextVar("log_ids", default={})  # noqa: B039 (never changed, only replaced)


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Provide every line that is logged inside carries these ids."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class LineFormatter(logging.Formatter):
    """One line per record, a traceback included; `fixed` are ids of the whole process.

    A record's `fields` (a dict given as `extra`) become fields of the line.
    """

    def __init__(self, **fixed: Any) -> None:
        super().__init__()
        self.fixed = fixed

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        return " ".join(f"{key}={quote(str(value))}" for key, value in fields.items())

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the line's fields in order, without those that are not known, and without secrets."""
        ids = {**self.fixed, **_ids.get(), **{name: value for name in IDS if (value := getattr(record, name, None)) is not None}}
        fields = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **{name: ids[name] for name in IDS if ids.get(name) not in (None, "")},
            "message": hide_secrets(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = hide_secrets(self.formatException(record.exc_info))
        return fields


class JsonFormatter(LineFormatter):
    """The same fields as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), default=str)


def quote(value: str) -> str:
    """Return the value, in quotes and escaped where it holds a separator or what is not printable: never more than one line."""
    if value and value.isprintable() and not NEEDS_QUOTES.search(value):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def hide_secrets(text: str) -> str:
    """Return the text without passwords in addresses, bearer tokens and login links."""
    for pattern, kept in SECRETS:
        text = pattern.sub(kept, text)
    return text


def configure(kind: str, level: str, **fixed: Any) -> None:
    """Let this process log to standard error, uvicorn's lines included; `kind` is logfmt or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**fixed) if kind == "json" else LineFormatter(**fixed))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = True  # the studio's own line says more, and no secret
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
