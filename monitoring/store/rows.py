"""Rows as journals keep them, JSON-able, written to their tables each once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import DateTime, Engine, Table, Uuid, text
from sqlalchemy.dialects.postgresql import insert

# A row of some tens of bound values times the batch stays far below what Postgres takes at once.
BATCH: Final = 500


def insert_new(engine: Engine, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; one whose key is there already is left as it is.

    Identities and times are read from their text.
    """
    statement = insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key.columns))
    values = [typed(table, row) for row in rows]
    with engine.begin() as connection:
        for start in range(0, len(values), BATCH):
            connection.execute(statement, values[start : start + BATCH])


def typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row with a value for every column; what it lacks is null, as in rows of an older version.

    Raises ValueError for a column that the table does not have: to drop it would lose what it says.
    """
    columns = [c for c in table.columns if c.identity is None]
    if unknown := sorted(row.keys() - {c.name for c in columns}):
        raise ValueError(f"{table.name} has no column {', '.join(map(str, unknown))}")
    made = {}
    for column in columns:
        value = row.get(column.name)
        if value is None and not column.nullable:
            raise ValueError(f"column {column.name} has no value")
        if value is not None and isinstance(column.type, Uuid):
            value = UUID(value)
        elif value is not None and isinstance(column.type, DateTime):
            value = datetime.fromisoformat(value)
        made[column.name] = value
    return made


def check_table(engine: Engine, table: Table) -> None:
    """Raises SQLAlchemyError where nothing at all can be written to a table now: it is missing, lacks
    a column, is read-only or not ours to write."""
    names = ", ".join(f'"{c.name}"' for c in table.columns if c.identity is None)
    with engine.begin() as connection:
        connection.execute(
            text(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {table.name} WHERE false")
        )
