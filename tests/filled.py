"""A database with rows in every table, whatever tables there are: for tests that must not lose any of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, Table, select

from app.store.database import Database
from app.store.tables import Base, UtcDateTime

NUM_ROWS = 3
FLOATS = (0.1 + 0.2, 5e-324, 1.7976931348623157e308)
FIRST = datetime(2026, 1, 31, 23, 59, 59, 123457, tzinfo=UTC)


def fill(database: Database) -> None:
    """Three rows in each table, the first with NULL wherever that is allowed."""
    rows: dict[str, list[dict[str, Any]]] = {}
    with database.writing() as session:
        for table in Base.metadata.sorted_tables:
            rows[table.name] = [make_row(table, number, rows) for number in range(NUM_ROWS)]
            session.execute(table.insert(), rows[table.name])


def make_row(table: Table, number: int, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {column.name: make_value(column, number, rows) for column in table.columns}


def make_value(column: Column[Any], number: int, rows: dict[str, list[dict[str, Any]]]) -> Any:
    if number == 0 and column.nullable:
        return None
    if column.foreign_keys:
        (key,) = column.foreign_keys
        return rows[key.column.table.name][number][key.column.name]
    kind = column.type
    if isinstance(kind, JSON):
        return {"text": 'é "quoted"\n', "numbers": [0.1, 1e-300, 7, -3], "nothing": None, "deep": {"list": [{}]}}
    if isinstance(kind, Float):
        return FLOATS[number]
    if isinstance(kind, Integer):
        return number + 1
    if isinstance(kind, UtcDateTime):
        return FIRST + timedelta(microseconds=number)
    if isinstance(kind, Boolean):
        return number == 1
    return f"key_{number}" if column.primary_key else f"{number}_λ"[: getattr(kind, "length", None) or 10]


def read_all(database: Database, *, but: str = "") -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table (except one), in the order of its key."""
    with database.reading() as session:
        return {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for table in Base.metadata.sorted_tables
            if table.name != but
        }
