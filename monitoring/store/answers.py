"""Answer rows: what became of a decision that was carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine, delete, func, select

from monitoring.store.rows import insert_new
from monitoring.store.tables import answers

# How a client's report of an answer ends.
REPORTS: Final = ("reported", "failed")


def insert_answers(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows; the first answer to a decision stays.

    But a gateway's row replaces a client's report: a report must not hide a cost.
    """
    carried = [row for row in rows if not is_report(row)]
    if carried:
        identities = [UUID(row["decision_id"]) for row in carried]
        reported = answers.c.status.in_(REPORTS) & (
            func.jsonb_array_length(answers.c.attempts) == 0
        )
        with engine.begin() as connection:
            connection.execute(
                delete(answers).where(answers.c.decision_id.in_(identities), reported)
            )
    insert_new(engine, answers, [*carried, *(row for row in rows if is_report(row))])


def is_report(row: dict[str, Any]) -> bool:
    """Whether a client reported it; the gateway's own rows have attempts, or another status."""
    return row["status"] in REPORTS and not row["attempts"]


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


def charged(row: Mapping[str, Any]) -> float:
    """USD that an answer row takes from its key's budget, also a row of an older version."""
    return (row.get("cost_usd") or 0.0) + (row.get("lost_usd") or 0.0)


def month_start(now: datetime | None = None) -> datetime:
    """When the budgets' month began, UTC."""
    now = now or datetime.now(UTC)
    return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def spent_this_month(engine: Engine, since: datetime | None = None) -> dict[str, float]:
    """API key → USD since the month began.

    since: that month's beginning.
    """
    statement = (
        select(
            answers.c.key_id,
            func.sum(
                func.coalesce(answers.c.cost_usd, 0.0) + func.coalesce(answers.c.lost_usd, 0.0)
            ),
        )
        .where(answers.c.key_id.is_not(None), answers.c.finished_at >= (since or month_start()))
        .group_by(answers.c.key_id)
    )
    with engine.connect() as connection:
        return {str(key): float(spent or 0.0) for key, spent in connection.execute(statement)}
