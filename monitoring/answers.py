"""Answer rows: what became of a decision that was carried out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, func, select

from monitoring.rows import insert_new
from monitoring.tables import answers


def insert_answers(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; the first answer to a decision stays."""
    insert_new(engine, answers, rows)


def read_answer(engine: Engine, decision_id: UUID) -> dict[str, Any] | None:
    """One row as it was written; None where there is none."""
    columns = [c for c in answers.c if c.name != "position"]
    statement = select(*columns).where(answers.c.decision_id == decision_id)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        return None
    shown = {"decision_id": str(decision_id), "finished_at": row["finished_at"].isoformat()}
    return {**row, **shown}


def month_start(now: datetime | None = None) -> datetime:
    """When the budgets' month began, UTC."""
    now = now or datetime.now(UTC)
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def spent_this_month(engine: Engine) -> dict[str, float]:
    """API key → USD since the month began."""
    statement = (
        select(answers.c.key_id, func.sum(answers.c.cost_usd))
        .where(answers.c.key_id.is_not(None), answers.c.finished_at >= month_start())
        .group_by(answers.c.key_id)
    )
    with engine.connect() as connection:
        return {str(key): float(spent or 0.0) for key, spent in connection.execute(statement)}
