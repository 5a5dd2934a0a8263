"""The audit: every step that the platform took by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from monitoring.store.tables import audit


@dataclass(frozen=True)
class Step:
    """What was done, why, with what result, on which evidence.

    alert_id: the alert that led to it, if one did.
    """

    what: str
    why: str
    result: str
    alert_id: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


def note(where: Connection | Engine, step: Step) -> None:
    """Write an audit row."""
    if isinstance(where, Engine):
        with where.begin() as connection:
            return note(connection, step)
    where.execute(insert(audit).values({"at": datetime.now(UTC), **vars(step)}))
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
