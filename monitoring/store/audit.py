"""The audit: every step that the platform took by itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from monitoring.store.tables import audit


def note(
    where: Connection | Engine,
    what: str,
    why: str,
    result: str,
    alert_id: int | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Write an audit row: what was done, why, on which evidence, with what result."""
    if isinstance(where, Engine):
        with where.begin() as connection:
            return note(connection, what, why, result, alert_id, evidence)
    values = {
        "at": datetime.now(UTC),
        "alert_id": alert_id,
        "what": what,
        "why": why,
        "evidence": dict(evidence or {}),
        "result": result,
    }
    where.execute(insert(audit).values(values))
    return None


def read_audit(
    engine: Engine, alert_id: int | None = None, most: int = 200
) -> list[dict[str, Any]]:
    """The newest first; of one alert, or of all."""
    statement = select(audit).order_by(audit.c.id.desc()).limit(most)
    if alert_id is not None:
        statement = statement.where(audit.c.alert_id == alert_id)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]
