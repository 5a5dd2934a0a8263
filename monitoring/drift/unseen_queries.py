"""Queries of no known domain, as the log has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import Engine, select

from monitoring.store.tables import decisions

MOST: Final = 5_000
MOST_OTHERS: Final = 500


@dataclass(frozen=True)
class UnseenQueries:
    """Queries of no known domain.

    embeddings: (n, d) float32.
    texts: of those whose text is kept.
    others: texts of queries of known domains meanwhile.
    """

    embeddings: np.ndarray
    texts: list[str]
    others: list[str]


def unseen_queries(engine: Engine, release: str, after: int) -> UnseenQueries:
    """Those a release decided after a position, the newest first."""
    ours = (decisions.c.release_digest == release) & (decisions.c.position > after)
    newest = decisions.c.position.desc()
    unseen = (
        select(decisions.c.embedding, decisions.c.query)
        .where(ours, decisions.c.unseen_score > 1.0)
        .order_by(newest)
        .limit(MOST)
    )
    known = (
        select(decisions.c.query)
        .where(ours, decisions.c.unseen_score <= 1.0, decisions.c.query.is_not(None))
        .order_by(newest)
        .limit(MOST_OTHERS)
    )
    with engine.connect() as connection:
        rows = connection.execute(unseen).all()
        others = list(connection.execute(known).scalars())
    if not rows:
        return UnseenQueries(np.zeros((0, 0), dtype=np.float32), [], others)
    embeddings = np.stack([np.frombuffer(row[0], dtype="<f4") for row in rows])
    return UnseenQueries(embeddings, [row[1] for row in rows if row[1] is not None], others)
