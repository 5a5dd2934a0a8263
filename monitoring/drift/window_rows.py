"""Windows read from the log: decisions with what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Double, Select, case, cast, func, select, text
from sqlalchemy.dialects.postgresql import distinct_on

from models.catalog import Catalog
from models.drift.windows import Window
from monitoring.store.tables import answers, decisions, feedback

# More decisions than these are sampled; as are queries whose embeddings are read.
MOST_ROWS: Final = 50_000
MOST_EMBEDDINGS: Final = 1_000
ANSWERED: Final = "answered"


@dataclass(frozen=True)
class Span:
    """A stretch of one release's decisions.

    release: its digest.
    after, upto: positions after one, up to another.
    started_at, ended_at: when the first and the last were decided.
    decisions: how many.
    """

    release: str
    after: int
    upto: int
    started_at: datetime
    ended_at: datetime
    decisions: int


def first_span(connection: Connection, release: str, count: int) -> Span | None:
    """The release's first so many decisions; None before there are so many."""
    ours = (
        select(decisions.c.position)
        .where(decisions.c.release_digest == release)
        .order_by(decisions.c.position)
        .limit(count)
    )
    positions = connection.execute(ours).scalars().all()
    if len(positions) < count:
        return None
    return read_span(connection, release, positions[0] - 1, positions[-1])


def first_position(connection: Connection, release: str, after: int) -> int:
    """Of a release's first decision after a position; it has one."""
    ours = (decisions.c.release_digest == release) & (decisions.c.position > after)
    return int(connection.execute(select(func.min(decisions.c.position)).where(ours)).scalar_one())


def count_of(connection: Connection, release: str, most: int) -> int:
    """How many decisions a release has made, counted up to a number."""
    ours = select(decisions.c.id).where(decisions.c.release_digest == release).limit(most)
    return int(connection.execute(select(func.count()).select_from(ours.subquery())).scalar_one())


def read_span(
    connection: Connection, release: str, after: int, upto: int | None = None
) -> Span | None:
    """The stretch after a position, up to another or to the newest; None where it is empty."""
    columns = (
        func.count(),
        func.max(decisions.c.position),
        func.min(decisions.c.decided_at),
        func.max(decisions.c.decided_at),
    )
    statement = select(*columns).where(
        decisions.c.release_digest == release, decisions.c.position > after
    )
    if upto is not None:
        statement = statement.where(decisions.c.position <= upto)
    count, last, first_at, last_at = connection.execute(statement).one()
    return Span(release, after, int(last), first_at, last_at, int(count)) if count else None


def read_window(connection: Connection, span: Span, catalog: Catalog) -> Window:
    """A stretch as a window; of many decisions a random sample, the same each time.

    catalog: its speeds are what seconds are compared with.
    """
    connection.execute(text("SET LOCAL jit = off"))
    every = -(-span.decisions // MOST_ROWS)
    rows = pd.DataFrame(connection.execute(rows_query(span, every)).mappings().all())
    received = feedback.c.received_at
    votes = select(func.count()).where(received > span.started_at, received <= span.ended_at)
    fallbacks = (
        select(func.count())
        .select_from(decisions)
        .where(decisions.c.fallback.is_not(None))
        .where(decisions.c.position > span.after, decisions.c.position <= span.upto)
    )
    return Window.of(
        with_catalog(rows, catalog),
        embeddings=read_embeddings(connection, span),
        total=span.decisions,
        votes=int(connection.execute(votes).scalar_one()),
        fallbacks=int(connection.execute(fallbacks).scalar_one()),
    )


def rows_query(span: Span, every: int) -> Select[Any]:
    """One row in ``every``, drawn by a hash of its position."""
    last = _votes(span, every)
    mine = [decisions.c.release_digest == span.release, *_within(span, every)]
    chosen = answers.c.llm == decisions.c.llm
    whole = (answers.c.decision_id == decisions.c.id) & chosen & (answers.c.status == ANSWERED)

    def score(name: str) -> Any:
        path = func.jsonb_extract_path_text(decisions.c.scores, decisions.c.llm, name)
        return cast(path, Double).label(name)

    return (
        select(
            decisions.c.position,
            func.extract("epoch", decisions.c.decided_at).label("decided_at"),
            decisions.c.llm,
            decisions.c.domain,
            decisions.c.unseen_score,
            decisions.c.query_characters,
            decisions.c.query_tokens,
            *map(score, ("quality", "cost_usd", "seconds", "response_tokens", "uncertainty")),
            answers.c.response_tokens.label("observed_tokens"),
            answers.c.cost_usd.label("observed_cost_usd"),
            answers.c.seconds.label("observed_seconds"),
            last.c.reward,
        )
        .outerjoin(answers, whole)
        .outerjoin(last, last.c.decision_id == decisions.c.id)
        .where(*mine)
        .order_by(decisions.c.position)
    )


def _within(span: Span, every: int) -> list[Any]:
    within = [decisions.c.position > span.after, decisions.c.position <= span.upto]
    if every > 1:
        within.append(func.mod(func.abs(func.hashint8(decisions.c.position)), every) == 0)
    return within


def _votes(span: Span, every: int) -> Any:
    """Decision → its mean vote, each voter's last."""
    last = (
        select(feedback.c.decision_id, feedback.c.satisfied, feedback.c.quality)
        .ext(distinct_on(feedback.c.decision_id, feedback.c.source, feedback.c.key_id))
        .join(decisions, decisions.c.id == feedback.c.decision_id)
        .where(decisions.c.release_digest == span.release, *_within(span, every))
        .where(feedback.c.llm == decisions.c.llm)
        .order_by(
            feedback.c.decision_id, feedback.c.source, feedback.c.key_id, feedback.c.revision.desc()
        )
        .subquery()
    )
    reward = func.coalesce(last.c.quality, case((last.c.satisfied, 1.0), else_=0.0))
    return (
        select(last.c.decision_id, func.avg(reward).label("reward"))
        .group_by(last.c.decision_id)
        .subquery()
    )


def with_catalog(rows: pd.DataFrame, catalog: Catalog) -> pd.DataFrame:
    """With the seconds of the catalog's speeds for the predicted and for the observed tokens."""
    if rows.empty:
        return rows
    first = rows["llm"].map({c.name: c.time_to_first_token for c in catalog.llms})
    speed = rows["llm"].map({c.name: c.tokens_per_second for c in catalog.llms})
    predicted = first + rows["response_tokens"].astype(float) / speed
    observed = first + rows["observed_tokens"].astype(float) / speed
    return rows.assign(catalog_seconds=predicted, observed_catalog_seconds=observed)


def read_embeddings(connection: Connection, span: Span) -> np.ndarray:
    """(m, d) of a sample of the stretch's queries, the same each time."""
    every = -(-span.decisions // MOST_EMBEDDINGS)
    statement = (
        select(decisions.c.embedding)
        .where(decisions.c.release_digest == span.release, *_within(span, every))
        .where(decisions.c.embedding.is_not(None))
        .order_by(decisions.c.position)
    )
    rows = connection.execute(statement).scalars().all()
    if not rows:
        return np.zeros((0, 0), dtype=np.float32)
    return np.stack([np.frombuffer(row, dtype="<f4") for row in rows])
