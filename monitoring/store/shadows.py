"""What challengers decide in shadow: rows written, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, case, func, select

from monitoring.store.rows import insert_new
from monitoring.store.tables import shadows


def insert_shadows(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; the first of a decision stays."""
    insert_new(engine, shadows, rows)


def shadow_figures(engine: Engine, release: str) -> dict[str, Any]:
    """decisions, agreement (share), gain (mean predicted), median milliseconds of both sides."""
    ours = shadows.c.release_digest == release

    def median(column: Any) -> Any:
        return 1000 * func.percentile_cont(0.5).within_group(column)

    alike = case((shadows.c.llm == shadows.c.champion_llm, 1.0), else_=0.0)
    columns = {
        "decisions": func.count(),
        "agreement": func.avg(alike),
        "gain": func.avg(shadows.c.predicted_gain),
        "ms": median(shadows.c.seconds),
        "champion_ms": median(shadows.c.champion_seconds),
    }
    statement = select(*(column.label(name) for name, column in columns.items())).where(ours)
    with engine.connect() as connection:
        return dict(connection.execute(statement).mappings().one())


def shadow_summary(engine: Engine, release: str) -> str | None:
    """In a sentence; None before the first."""
    found = shadow_figures(engine, release)
    if not found["decisions"]:
        return None
    return (
        f"In shadow on {found['decisions']} live queries: chooses as the champion in "
        f"{found['agreement']:.1%}, predicted gain {found['gain'] or 0.0:+.4f} of score a query, routes "
        f"in {found['ms']:.1f} ms (champion {found['champion_ms']:.1f} ms)."
    )
