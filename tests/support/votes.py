"""Decisions and votes on them, written to a database as the service writes them."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine

from models.learning.policy_state import PolicyState
from models.release.release import Release
from monitoring.learning.learner import Subject
from monitoring.store.decisions import Asked, DecidedBy, decision_row, insert_decisions, new_id
from monitoring.store.feedback import insert_feedback
from monitoring.store.releases import Parts, insert_releases, release_row

QUERIES = (
    "Compute 12 * 7.", "Write a poem about rain.", "What is the capital of Peru?",
    "Translate 'good morning' into French.", "Sort the list [3, 1, 2].",
)  # fmt: skip


def subject_of(release: Release) -> Subject:
    untaught = PolicyState.untaught(release.digest, release.compiled)
    return Subject(untaught, Parts.of(release.manifest))


def decide(release: Release, count: int, key_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of so many decisions."""
    routings = [release.route(query) for query in QUERIES]
    return [
        decision_row(
            routings[i % len(routings)],
            DecidedBy("1", release.digest),
            Asked(QUERIES[0], "hash", key_id),
            0.001,
        )
        for i in range(count)
    ]


def vote(decision: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A vote's row."""
    given = {"satisfied": True, "quality": None} | changes
    return {
        "id": str(new_id()),
        "received_at": datetime.now(UTC).isoformat(),
        "decision_id": decision["id"],
        "source": "user",
        "key_id": None,
        "llm": decision["llm"],
        "comment": None,
        "prompt_tokens": None,
        "response_tokens": None,
        "seconds": None,
        **given,
    }


def fill(engine: Engine, release: Release, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Write the release, decisions and a vote on each; returns the votes."""
    rng = np.random.default_rng(seed)
    insert_releases(engine, [release_row(release.manifest, "1")])
    decisions = decide(release, count)
    insert_decisions(engine, decisions)
    votes = [
        vote(decision, satisfied=bool(rng.random() < 0.7), source=f"u{rng.integers(5)}")
        for decision in decisions
    ]
    insert_feedback(engine, votes)
    return votes
