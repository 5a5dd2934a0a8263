"""Rows as journals keep them, JSON-able, written to their tables each once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import DateTime, Engine, Table, Uuid
from sqlalchemy.dialects.postgresql import insert

# A row of some tens of bound values times the batch stays far below what Postgres takes at once.
BATCH: Final = 500


def insert_new(engine: Engine, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; one whose key is there already is left as it is.

    Identities and times are read from their text.
    """
    identities = [c.name for c in table.columns if isinstance(c.type, Uuid)]
    times = [c.name for c in table.columns if isinstance(c.type, DateTime)]
    statement = insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key.columns))
    with engine.begin() as connection:
        for start in range(0, len(rows), BATCH):
            values = [
                {
                    **row,
                    **{name: UUID(row[name]) for name in identities},
                    **{name: datetime.fromisoformat(row[name]) for name in times},
                }
                for row in rows[start : start + BATCH]
            ]
            connection.execute(statement, values)
