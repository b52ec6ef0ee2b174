"""A connection to PostgreSQL that waits for an answer only so long.

The server's own timeouts help while it can be heard. A server, or a network, that falls silent in the middle of a
statement would hold the thread until TCP gives up, a quarter of an hour later.
"""

import math
import time
from collections.abc import Generator
from typing import Any

import psycopg

ANSWER_SECONDS = 20.0  # more than any statement of ours may wait for a lock


class PatientConnection(psycopg.Connection[Any]):
    """Closes itself and raises OperationalError when the server says nothing for `answer_seconds`."""

    answer_seconds = ANSWER_SECONDS

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """As psycopg's own, which polls `gen` several times a second."""
        return super().wait(self._impatient(gen), *args, **kwargs)

    def _impatient(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        deadline = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"PostgreSQL has said nothing for {self.answer_seconds:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


def connect(_dialect: object, _record: object, args: Any, options: dict[str, Any]) -> PatientConnection:
    """SQLAlchemy's event `do_connect`."""
    return PatientConnection.connect(*args, **options)


def be_patient(connection: Any, *, without_end: bool) -> None:
    """Let this connection wait as long as it takes, as a migration must, or the usual time again."""
    if isinstance(connection, PatientConnection):
        connection.answer_seconds = math.inf if without_end else ANSWER_SECONDS
