"""Rows as JSON lines that every database can take back: times in UTC, floats exact, nothing that is not finite.

Tables are read from the database itself where rows go in, so that rows of an older version meet its own tables.
"""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, DateTime, MetaData, Table, select
from sqlalchemy.orm import Session

from app.domain.texts import make_keepable
from app.store.tables import Base

BATCH_ROWS = 1000
ESCAPED_UNKEEPABLE = (b"\\u0000", b"\\ud")  # how they begin in a line; most lines have none


def list_tables() -> list[Table]:
    """This version's tables, each after those it points to."""
    return list(Base.metadata.sorted_tables)


def dump(session: Session, table: Table) -> Iterator[bytes]:
    """Yield the rows of a table, a line each, in the order of the primary key; memory stays at one batch."""
    query = select(table).order_by(*table.primary_key.columns)
    names = [column.name for column in table.columns]
    options = {"stream_results": True, "yield_per": BATCH_ROWS}
    for row in session.connection().execute(query, execution_options=options):
        line = {name: to_json(value) for name, value in zip(names, row, strict=True)}
        yield json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def to_json(value: Any) -> Any:
    """Return a column's value, JSON-ready. Floats keep all their digits; a NaN or an infinity becomes None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list):
        return [to_json(part) for part in value]
    return value


def read_tables(connection: Connection) -> MetaData:
    """Return the tables that are there, whatever their version; a JSON column keeps None as NULL."""
    found = MetaData()
    found.reflect(connection)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type = type(column.type)(none_as_null=True)
    return found


def load(connection: Connection, table: Table, lines: Iterable[bytes]) -> int:
    """Insert the rows of these lines; returns how many. PostgreSQL gets U+FFFD for the characters that it can't keep."""
    columns = {column.name: column for column in table.columns}
    is_strict = connection.dialect.name == "postgresql"
    batch: list[dict[str, Any]] = []
    num_rows = 0
    for line in lines:
        row = json.loads(line)
        if is_strict and any(escape in line for escape in ESCAPED_UNKEEPABLE):
            row = make_keepable(row)
        batch.append({name: from_json(columns[name], value) for name, value in row.items()})
        num_rows += 1
        if len(batch) >= BATCH_ROWS:
            connection.execute(table.insert(), batch)
            batch = []
    if batch:
        connection.execute(table.insert(), batch)
    return num_rows


def from_json(column: Column[Any], value: Any) -> Any:
    if value is not None and isinstance(column.type, DateTime):
        return datetime.fromisoformat(value)
    return value


def list_filled(connection: Connection, tables: Iterable[Table]) -> list[str]:
    """Return the names of those tables that have any row, sorted."""
    filled = (table.name for table in tables if connection.execute(select(table).limit(1)).first() is not None)
    return sorted(filled)
