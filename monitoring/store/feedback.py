"""Feedback rows: written each once, in the order in which readers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Engine, func, insert, select

from monitoring.store.locks import take_lock
from monitoring.store.rows import typed
from monitoring.store.tables import feedback

# An insert holds it until the commit, so that positions grow in the order of the commits.
INSERT_LOCK: Final = 77_202_512
# Columns whose change makes a vote a correction.
CONTENT: Final = (
    "satisfied", "quality", "comment", "prompt_tokens", "response_tokens", "seconds",
)  # fmt: skip


def reward_of(row: Mapping[str, Any]) -> float:
    """What a vote gives: its quality, else 1 or 0."""
    quality = row["quality"]
    return float(row["satisfied"]) if quality is None else float(quality)


def insert_feedback(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    """Write votes in one transaction.

    A vote that is there already stays as it is. One that repeats its source's last vote adds nothing;
    any other corrects that one.
    """
    with engine.begin() as connection:
        take_lock(connection, INSERT_LOCK)
        known, last = _there_already(connection, rows)
        fresh = []
        for row in rows:
            vote = _typed(row)
            place = (vote["decision_id"], vote["source"], vote["key_id"])
            before = last.get(place)
            if vote["id"] in known or (before is not None and _same(before, vote)):
                continue
            if before is not None:
                vote["revision"] = before["revision"] + 1
                vote["replaced_reward"] = reward_of(before)
            known.add(vote["id"])
            last[place] = vote
            fresh.append(vote)
        if fresh:
            connection.execute(insert(feedback), fresh)


def _there_already(
    connection: Connection, rows: Sequence[dict[str, Any]]
) -> tuple[set[UUID], dict[Any, Mapping[str, Any]]]:
    """The ids of the decisions' votes, and the last vote of each (decision, source, key)."""
    decisions = sorted({UUID(row["decision_id"]) for row in rows})
    statement = (
        select(feedback)
        .where(feedback.c.decision_id.in_(decisions))
        .order_by(feedback.c.decision_id, feedback.c.revision)
    )
    known: set[UUID] = set()
    last: dict[Any, Mapping[str, Any]] = {}
    for row in connection.execute(statement).mappings():
        known.add(row["id"])
        last[row["decision_id"], row["source"], row["key_id"]] = dict(row)
    return known, last


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return all(before[name] == after[name] for name in CONTENT)


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what is no vote: it would stop the learner."""
    quality, satisfied = row.get("quality"), row.get("satisfied")
    if (quality is None) == (satisfied is None) or not isinstance(satisfied, bool | None):
        raise ValueError("expected either satisfied or quality")
    if quality is not None and not 0 <= float(quality) <= 1:
        raise ValueError(f"quality {quality} is not in [0, 1]")
    return typed(feedback, {**row, "revision": 1, "replaced_reward": None})


def read_feedback(engine: Engine, decision_id: UUID) -> list[dict[str, Any]]:
    """Every vote on a decision, corrections included, as they came."""
    statement = (
        select(feedback).where(feedback.c.decision_id == decision_id).order_by(feedback.c.position)
    )
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def last_position(engine: Engine) -> int:
    """The newest vote's position; 0 before the first."""
    with engine.connect() as connection:
        last = connection.execute(select(func.max(feedback.c.position))).scalar_one()
    return int(last or 0)
