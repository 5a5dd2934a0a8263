"""Decisions with an answer and a vote each, written to a database as the service writes them."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine

from models.release.release import Release
from monitoring.store.answers import insert_answers
from monitoring.store.decisions import insert_decisions
from monitoring.store.feedback import insert_feedback
from votes import decide, vote


def log_decisions(
    engine: Engine,
    release: Release,
    rng: np.random.Generator,
    count: int,
    worse: float = 0.0,
    unseen: float = 0.0,
    votes: bool = True,
    **more: Any,
) -> list[dict[str, Any]]:
    """As good as predicted, less ``worse``; a share of the queries of no known domain; more: what rows
    have otherwise."""
    rows = [{**row, **more} for row in decide(release, count)]
    for row in rows:
        row["unseen_score"] = 1.5 if rng.random() < unseen else 0.5
    insert_decisions(engine, rows)
    insert_answers(engine, [answer(row, rng) for row in rows])
    if votes:
        insert_feedback(engine, [graded(row, worse, rng) for row in rows])
    return rows


def predicted(row: dict[str, Any], name: str) -> float:
    return float(row["scores"][row["llm"]][name])


def answer(row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    factor = float(rng.lognormal(0, 0.3))
    return {
        "decision_id": row["id"],
        "finished_at": datetime.now(UTC).isoformat(),
        "llm": row["llm"],
        "status": "answered",
        "error": None,
        "attempts": [],
        "prompt_tokens": 20,
        "response_tokens": round(predicted(row, "response_tokens") * factor),
        "cost_usd": predicted(row, "cost_usd") * factor,
        "first_token_seconds": 0.1,
        "seconds": predicted(row, "seconds") * factor,
        "streamed": False,
        "key_id": None,
    }


def graded(row: dict[str, Any], worse: float, rng: np.random.Generator) -> dict[str, Any]:
    quality = np.clip(predicted(row, "quality") - worse + rng.normal(0, 0.1), 0, 1)
    return vote(row, satisfied=None, quality=float(quality), source=f"u{rng.integers(9)}")
