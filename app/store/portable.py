"""Rows as JSON lines that every database can take back: times in UTC, floats exact, nothing that is not finite.

Tables are read from the database itself where rows go in, so that rows of an older version meet its own tables.
"""

import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Connection, DateTime, Float, Integer, MetaData, Numeric, Table, select
from sqlalchemy.exc import OperationalError, StatementError
from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.texts import make_keepable
from app.store.files.files import IDENTIFIER
from app.store.tables import Base

BATCH_ROWS = 1000
WITH_FOLDERS = ("datasets", "models", "runs", "scorings", "prompt_sets", "answers", "comparisons")  # whose ids name folders
MADE_ELSEWHERE = "it was not made by VAR Studio, so nothing is restored."
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
        num_rows += 1
        row = read_row(table, num_rows, line)
        if is_strict and any(escape in line for escape in ESCAPED_UNKEEPABLE):
            row = make_keepable(row)
        batch.append({name: from_json(columns[name], value) for name, value in row.items()})
        if len(batch) >= BATCH_ROWS:
            insert(connection, table, batch)
            batch = []
    if batch:
        insert(connection, table, batch)
    return num_rows


def read_row(table: Table, number: int, line: bytes) -> dict[str, Any]:
    """Return a line's row; raises InvalidInput for one that this table can't have."""
    where = f"Row {number} of the backup's table {table.name}"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidInput(f"{where} can't be read: {MADE_ELSEWHERE}")
    for name, value in row.items():
        if name not in table.columns:
            raise InvalidInput(f"{where} has a column {name!r}, which the table has not: {MADE_ELSEWHERE}")
        if not fits(table.columns[name], value):
            raise InvalidInput(f"{where} has a value in {name} that the column can't hold: {MADE_ELSEWHERE}")
    if table.name in WITH_FOLDERS and not IDENTIFIER.fullmatch(str(row.get("id") or "")):
        raise InvalidInput(f"{where} has an id that can be no folder's name: {MADE_ELSEWHERE}")
    return row


def fits(column: Column[Any], value: Any) -> bool:
    """Return whether a column can hold this JSON value; SQLite itself would hold any."""
    if value is None or isinstance(column.type, JSON):
        return True
    if isinstance(column.type, DateTime):
        try:
            return datetime.fromisoformat(value) is not None
        except (TypeError, ValueError):
            return False
    if isinstance(column.type, Boolean):
        return isinstance(value, bool | int)
    if isinstance(column.type, Integer):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, int | float) if isinstance(column.type, Numeric | Float) else isinstance(value, str)


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Raises InvalidInput for rows that miss what they must have, or that are there twice."""
    try:
        connection.execute(table.insert(), rows)
    except OperationalError:
        raise
    except StatementError as error:
        reason = (str(error.orig or error).splitlines() or [""])[0]
        raise InvalidInput(f"Rows of the backup's table {table.name} can't be kept ({reason}): {MADE_ELSEWHERE}") from error


def list_orphans(connection: Connection) -> list[str]:
    """Return the tables with rows that point to none; PostgreSQL itself takes no such rows in."""
    if connection.dialect.name != "sqlite":
        return []
    return sorted({str(row[0]) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})


def from_json(column: Column[Any], value: Any) -> Any:
    return datetime.fromisoformat(value) if value is not None and isinstance(column.type, DateTime) else value


def list_filled(connection: Connection, tables: Iterable[Table]) -> list[str]:
    """Return the names of those tables that have any row, sorted."""
    filled = (table.name for table in tables if connection.execute(select(table).limit(1)).first() is not None)
    return sorted(filled)
