"""Queries of no known domain, as the log has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import Engine, select

from monitoring.tables import decisions

MOST: Final = 5_000


@dataclass(frozen=True)
class UnseenQueries:
    """embeddings: (n, d) float32. texts: of those whose text is kept."""

    embeddings: np.ndarray
    texts: list[str]


def unseen_queries(engine: Engine, release: str, after: int) -> UnseenQueries:
    """Those a release decided after a position, the newest first."""
    statement = (
        select(decisions.c.embedding, decisions.c.query)
        .where(decisions.c.release_digest == release, decisions.c.position > after)
        .where(decisions.c.unseen_score > 1.0)
        .order_by(decisions.c.position.desc())
        .limit(MOST)
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    if not rows:
        return UnseenQueries(np.zeros((0, 0), dtype=np.float32), [])
    embeddings = np.stack([np.frombuffer(row[0], dtype="<f4") for row in rows])
    return UnseenQueries(embeddings, [row[1] for row in rows if row[1] is not None])
