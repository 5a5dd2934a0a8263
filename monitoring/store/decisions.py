"""Decision rows: made from a routing, written to Postgres, read back."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import numpy as np
from sqlalchemy import Engine, func, select

from infra.text import storable_text
from models.decision.decide import Decision
from models.digest import digest_text
from models.release.release import Routing
from monitoring.store.rows import insert_new
from monitoring.store.tables import decisions

StoreQueries = Literal["full", "hash", "none"]


@dataclass(frozen=True)
class Asked:
    """Who asked what, and what of it is kept.

    key_id: the API key's, if one was given.
    """

    query: str
    store_queries: StoreQueries
    key_id: str | None = None


@dataclass(frozen=True)
class DecidedBy:
    """The release that decided, and the policy state's version if one had a say."""

    version: str
    digest: str
    policy_version: int | None = None


@dataclass(frozen=True)
class Fallback:
    """What a request gets that the router could not decide.

    reason: why not.
    willingness_to_pay: USD per unit of quality.
    version: the running release's, if there is one.
    """

    llm: str
    reason: str
    willingness_to_pay: float
    version: str | None


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562): ordered by time, so that the index grows at its end."""
    milliseconds = time.time_ns() // 1_000_000
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(raw))


def scores_of(decision: Decision) -> dict[str, dict[str, float]]:
    """Every permitted candidate's score and terms, rounded to what is significant."""
    estimates = decision.estimates
    columns = {
        "score": decision.terms.total.round(6),
        "quality": estimates.quality.round(6),
        "cost_usd": estimates.cost.round(12),
        "seconds": estimates.time.round(4),
        "response_tokens": estimates.response_tokens.round(2),
        "uncertainty": estimates.uncertainty.astype(np.float64).round(6),
        "feedback": estimates.feedback.round(6),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return {
        name: dict(zip(columns, row, strict=True))
        for name, allowed, row in zip(decision.candidates, decision.allowed, rows, strict=True)
        if allowed
    }


def decision_row(routing: Routing, by: DecidedBy, asked: Asked, seconds: float) -> dict[str, Any]:
    """One routing as a JSON-able row; embedding and form as base64 of float32."""
    decision = routing.decision
    return {
        **_common(asked, seconds),
        "llm": decision.llm,
        "propensity": decision.propensity,
        "willingness_to_pay": decision.willingness_to_pay,
        "domain": routing.domain,
        "unseen_score": round(routing.unseen_score, 6),
        "embedding": packed(routing.embedding),
        "form": packed(routing.inputs.forms[0]),
        "query_tokens": float(routing.inputs.tokens[0]),
        "scores": scores_of(decision),
        "fallback": None,
        "release_version": by.version,
        "release_digest": by.digest,
        "policy_version": by.policy_version,
    }


def packed(numbers: np.ndarray) -> str:
    """Base64 of float32, little-endian."""
    return base64.b64encode(numbers.astype("<f4").tobytes()).decode()


def fallback_row(fallback: Fallback, asked: Asked, seconds: float) -> dict[str, Any]:
    """The row of a request that the router could not decide."""
    return {
        **_common(asked, seconds),
        "llm": fallback.llm,
        "propensity": 1.0,
        "willingness_to_pay": fallback.willingness_to_pay,
        "domain": None,
        "unseen_score": None,
        "embedding": None,
        "form": None,
        "query_tokens": None,
        "scores": {},
        "fallback": fallback.reason,
        "release_version": fallback.version,
        "release_digest": None,
        "policy_version": None,
    }


def _common(asked: Asked, seconds: float) -> dict[str, Any]:
    query, store_queries = asked.query, asked.store_queries
    return {
        "id": str(new_id()),
        "decided_at": datetime.now(UTC).isoformat(),
        # Postgres text holds no NUL and no lone surrogate.
        "query": storable_text(query) if store_queries == "full" else None,
        "query_sha256": digest_text(query) if store_queries != "none" else None,
        "query_characters": len(query),
        "seconds": seconds,
        "key_id": asked.key_id,
    }


def insert_decisions(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows in one transaction; a row whose id is there already is left as it is."""
    insert_new(engine, decisions, [_decoded(row) for row in rows])


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for a row that would stop the readers of many decisions."""
    scores = row.get("scores")
    if not isinstance(scores, dict) or not all(map(_is_score, scores.values())):
        raise ValueError("scores: expected numbers for every candidate")
    return row | {name: unpacked(row.get(name), name) for name in ("embedding", "form")}


def _is_score(terms: Any) -> bool:
    return isinstance(terms, dict) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in terms.values()
    )


def unpacked(text: str | None, name: str) -> bytes | None:
    """The bytes of what ``packed`` made. Raises ValueError where it is not finite float32."""
    if text is None:
        return None
    data = base64.b64decode(text, validate=True)
    if len(data) % 4 or not data or not np.isfinite(np.frombuffer(data, dtype="<f4")).all():
        raise ValueError(f"{name}: expected float32 numbers")
    return data


def read_decision(engine: Engine, identity: UUID) -> dict[str, Any] | None:
    """One row as it was written, without the arrays; None where there is none."""
    columns = [c for c in decisions.c if c.name not in ("embedding", "form", "position")]
    with engine.connect() as connection:
        row = (
            connection.execute(select(*columns).where(decisions.c.id == identity))
            .mappings()
            .first()
        )
    if row is None:
        return None
    return {**row, "id": str(row["id"]), "decided_at": row["decided_at"].isoformat()}


def count_decisions(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(decisions)).scalar_one())
