"""What challengers decide in shadow: rows and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, case, func, select

from monitoring.store.rows import insert_new
from monitoring.store.tables import shadows


def insert_shadows(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; the first of a decision stays."""
    insert_new(engine, shadows, rows)


@dataclass(frozen=True)
class ShadowFigures:
    """A challenger beside the champion; None before its first decision.

    agreement: share of the decisions that are the same.
    gain: of score, the mean predicted.
    ms, champion_ms: median milliseconds of a routing.
    """

    decisions: int
    agreement: float | None
    gain: float | None
    ms: float | None
    champion_ms: float | None


def shadow_figures(engine: Engine, release: str) -> ShadowFigures:
    """Of a release, by its digest."""
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
        return ShadowFigures(**connection.execute(statement).mappings().one())


def shadow_summary(engine: Engine, release: str) -> str | None:
    """In a sentence; None before the first."""
    figures = shadow_figures(engine, release)
    if not figures.decisions:
        return None
    return (
        f"In shadow on {figures.decisions} live queries: agrees with the champion "
        f"on {figures.agreement:.1%}, predicted gain {figures.gain or 0.0:+.4f} of score per query, "
        f"routes in {figures.ms:.1f} ms (champion {figures.champion_ms:.1f} ms)."
    )
