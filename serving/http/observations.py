"""Decide-only use: the client asks the chosen LLM itself, and may tell how it went."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import HTTPException

from models.billing import Usage, bill
from models.catalog import Candidate
from models.decision.waiting import Request
from serving.http.feedback_schemas import Observation
from serving.routing.router import Routed
from serving.state import ServiceState


def sent(state: ServiceState, routed: Routed) -> None:
    """Count the request that the client is about to make; it is over when its prediction is."""
    running = state.champion.running
    if running is None or routed.routing is None:
        return
    decision = routed.routing.decision
    entry = running.release.manifest.catalog.get(decision.llm)
    tokens = float(decision.estimates.response_tokens[decision.choice])
    request = Request.of(entry, tokens, watched=False)
    state.tracker.arrive(decision.llm, routed.decision_id, request, time.monotonic())


def observed(
    state: ServiceState, observation: Observation, key_id: str | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The caller's decision that was observed, and its answer as far as known. Raises HTTPException."""
    return state.decision_log.owned(as_uuid(observation.decision_id), key_id)


def observe(
    state: ServiceState,
    observation: Observation,
    row: dict[str, Any],
    answer: dict[str, Any] | None,
) -> bool:
    """Learn from what a client saw of a decision, and keep it; False where that is known already."""
    if answer is not None or state.gateway.carries(row["id"]):
        return False  # reported already, or carried out by the gateway, which counts its cost
    llm, running = row["llm"], state.champion.running
    entries = {c.name: c for c in running.release.manifest.catalog.llms} if running else {}
    entry, scores = entries.get(llm), row["scores"].get(llm)
    if entry is not None and scores is not None and not observation.failed:
        request = Request.of(entry, scores["response_tokens"])
        request.first_token = observation.first_token_seconds
        state.tracker.observe(llm, row["id"], request, observation.seconds, time.monotonic())
    state.decision_log.keep_answer(
        {
            "decision_id": row["id"],
            "finished_at": datetime.now(UTC).isoformat(),
            "llm": None if observation.failed else llm,
            "status": "failed" if observation.failed else "reported",
            "error": None,
            "attempts": [],
            "prompt_tokens": observation.prompt_tokens,
            "response_tokens": observation.response_tokens,
            "cost_usd": cost_of(entry, observation),
            "first_token_seconds": observation.first_token_seconds,
            "seconds": observation.seconds,
            "streamed": observation.first_token_seconds is not None,
            "key_id": row.get("key_id"),
        }
    )
    return True


def cost_of(entry: Candidate | None, observation: Observation) -> float | None:
    """USD, where the tokens are told."""
    prompt, response = observation.prompt_tokens, observation.response_tokens
    if entry is None or observation.failed or prompt is None or response is None:
        return None
    return bill(entry, Usage(prompt, response)).cost


def as_uuid(text: str) -> UUID:
    """Raises HTTPException."""
    try:
        return UUID(text)
    except ValueError as error:
        raise HTTPException(422, f"decision_id: not a UUID: {text}") from error
