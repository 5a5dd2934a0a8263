"""Feedback as clients give it: checked against its decision, durable once it is answered."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from fastapi import HTTPException
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from infra.text import storable_text
from monitoring.decisions import new_id
from monitoring.feedback import reward_of
from serving import metrics
from serving.observations import as_uuid
from serving.schemas import MAX_BATCH, FeedbackBatchResponse, FeedbackRefused, FeedbackRequest
from serving.state import ServiceState

AWAY: Final = "the decision cannot be looked up while Postgres is away; nothing was kept"


def keep(state: ServiceState, found: FeedbackRequest, key_id: str | None) -> None:
    """Keep one vote; durable when this returns. Raises HTTPException."""
    append(state, [feedback_row(state, found, key_id)])


def keep_all(
    state: ServiceState, found: Sequence[FeedbackRequest], key_id: str | None
) -> FeedbackBatchResponse:
    """Keep every vote that can be kept, and say why the others cannot. Raises HTTPException where
    none can be looked up."""
    return _keep_each(state, [partial(_as_given, one) for one in found], key_id)


def import_scores(state: ServiceState, body: bytes, key_id: str | None) -> FeedbackBatchResponse:
    """Keep the scores of an OpenAI evaluation run: its output items as JSON Lines. Raises
    HTTPException."""
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > MAX_BATCH:
        raise HTTPException(422, f"{len(lines)} lines; send at most {MAX_BATCH} at a time")
    return _keep_each(state, [partial(scored, line) for line in lines], key_id)


def _keep_each(
    state: ServiceState, votes: Sequence[Callable[[], FeedbackRequest]], key_id: str | None
) -> FeedbackBatchResponse:
    rows: list[dict[str, Any]] = []
    refused = []
    for index, vote in enumerate(votes):
        try:
            rows.append(feedback_row(state, vote(), key_id))
        except HTTPException as error:
            if error.status_code >= 500:
                raise
            refused.append(FeedbackRefused(index=index, message=str(error.detail)))
    append(state, rows)
    return FeedbackBatchResponse(kept=len(rows), refused=refused)


def _as_given(found: FeedbackRequest) -> FeedbackRequest:
    return found


def scored(line: bytes) -> FeedbackRequest:
    """One output item of an OpenAI evaluation run as a vote. Raises HTTPException.

    The decision is named in the item's data (``decision_id``, or the completion's ``mixllm`` field);
    the quality is the mean of the graders' scores, or whether the item passed.
    """
    try:
        item = json.loads(line)
        data = item["datasource_item"]
        decision = data.get("decision_id") or data["mixllm"]["decision_id"]
        scores = [result["score"] for result in item["results"] if result.get("score") is not None]
        judged: dict[str, Any] = {"satisfied": item["status"] == "pass"}
        if scores:
            judged = {"quality": sum(scores) / len(scores)}
        source = f"openai-eval:{item.get('eval_id') or 'unnamed'}"[:100]
        return FeedbackRequest(decision_id=decision, source=source, **judged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HTTPException(422, f"{place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise HTTPException(422, f"not an output item of an OpenAI evaluation: {what}") from error


def append(state: ServiceState, rows: Sequence[dict[str, Any]]) -> None:
    """Write votes to the disk, from where they go to Postgres. Raises HTTPException."""
    if not rows:
        return
    try:
        state.feedback.append(*rows)
    except OSError as error:
        metrics.refused.labels("disk").inc()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = error.strerror or str(error)
        raise HTTPException(
            507 if full else 503,
            f"the feedback is not kept: it cannot be written to the service's disk ({why}); send it "
            "again later",
            {"retry-after": "60"},
        ) from error
    for row in rows:
        kind = "binary" if row["quality"] is None else "graded"
        metrics.feedback.labels(row["llm"], kind).inc()
        metrics.satisfaction.labels(row["llm"]).inc(reward_of(row))


def feedback_row(state: ServiceState, found: FeedbackRequest, key_id: str | None) -> dict[str, Any]:
    """A vote as a JSON-able row. Raises HTTPException."""
    identity = as_uuid(found.decision_id)
    try:
        decision, answer = state.rows_of(identity)
    except SQLAlchemyError as error:
        raise HTTPException(503, AWAY, {"retry-after": "5"}) from error
    mine = state.keys.allows(key_id, "admin") or (decision or {}).get("key_id") == key_id
    if decision is None or not mine:
        raise HTTPException(404, f"no decision {found.decision_id}")
    limit = timedelta(days=state.settings.feedback_days)
    if datetime.now(UTC) - datetime.fromisoformat(decision["decided_at"]) > limit:
        raise HTTPException(
            422,
            f"the decision is of {decision['decided_at'][:10]}; feedback is taken for "
            f"{state.settings.feedback_days:g} days",
        )
    llm = decision["llm"] if answer is None else answer["llm"]
    if llm is None:
        raise HTTPException(422, "nobody answered this decision's query: there is nothing to judge")
    return {
        "id": str(new_id()),
        "received_at": datetime.now(UTC).isoformat(),
        "decision_id": str(identity),
        "source": storable_text(found.source),
        "key_id": key_id,
        "llm": llm,
        "satisfied": found.satisfied,
        "quality": found.quality,
        "comment": None if found.comment is None else storable_text(found.comment),
        "prompt_tokens": found.prompt_tokens,
        "response_tokens": found.response_tokens,
        "seconds": found.seconds,
    }
