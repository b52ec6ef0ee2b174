"""The database's own clock, moved: what leases are measured by, without waiting. Times stay real, only shifted."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import event

from app.store.database import Database

SHIFTED = """
CREATE SCHEMA IF NOT EXISTS shifted;
CREATE TABLE IF NOT EXISTS shifted.shift (seconds double precision NOT NULL);
DELETE FROM shifted.shift;
INSERT INTO shifted.shift VALUES (0);
CREATE OR REPLACE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM shifted.shift))';
"""


class Clock:
    """`shift` is how many seconds the database is ahead. Must be made before the database opens its first connection."""

    def __init__(self, database: Database) -> None:
        self.shift = 0.0
        self._url = "" if database.is_sqlite else database.settings.database_url
        if database.is_sqlite:
            event.listen(database.engine, "connect", self._take_over)
        else:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute(SHIFTED)
                # Found before the built-in function of the same name, by every connection made from now on.
                name = connection.info.dbname
                connection.execute(f'ALTER DATABASE "{name}" SET search_path = shifted, public, pg_catalog')

    def _take_over(self, connection: sqlite3.Connection, _record: Any) -> None:
        connection.create_function("strftime", 2, self._stamp)

    def _stamp(self, pattern: str, moment: str) -> str:
        assert (pattern, moment) == ("%Y-%m-%dT%H:%M:%f", "now"), "only the studio's own question is answered"
        return (datetime.now(UTC) + timedelta(seconds=self.shift)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]

    def advance(self, seconds: float) -> None:
        """Let so much time pass in the database."""
        self.shift += seconds
        if self._url:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("UPDATE shifted.shift SET seconds = %s", (self.shift,))
