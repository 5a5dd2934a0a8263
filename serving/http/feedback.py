"""Feedback as clients give it: checked against its decision, durable once it is answered."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from fastapi import HTTPException
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from infra.text import storable_text
from monitoring.store.decisions import new_id
from monitoring.store.feedback import read_feedback, reward_of
from serving import metrics
from serving.http.bodies import check_size
from serving.http.feedback_schemas import (
    MAX_BATCH,
    EvaluationItem,
    FeedbackRefused,
    FeedbackRequest,
)
from serving.http.observations import as_uuid
from serving.state import ServiceState

# Of an import; empty ones count too.
MAX_LINES: Final = 2 * MAX_BATCH
# Makes one vote. Raises HTTPException.
Vote = Callable[[], FeedbackRequest]
AWAY: Final = "the decision cannot be looked up while Postgres is away; nothing was kept"


def votes(given: Sequence[FeedbackRequest]) -> list[Vote]:
    """The votes of a batch."""
    return [partial(_as_given, one) for one in given]


def scores(body: bytes) -> list[Vote]:
    """The scores of an OpenAI evaluation run: its output items as JSON Lines. Raises
    HTTPException."""
    every = body.split(b"\n", MAX_LINES)
    lines = [line for line in every if line.strip()]
    if len(lines) > MAX_BATCH or len(every) > MAX_LINES:
        raise HTTPException(422, f"over {MAX_BATCH} lines; send at most {MAX_BATCH} at a time")
    return [partial(scored, line) for line in lines]


def rows_of(
    state: ServiceState, given: Sequence[Vote], key_id: str | None
) -> tuple[list[dict[str, Any]], list[FeedbackRefused]]:
    """The rows of the votes that can be kept, and why the others cannot. Raises HTTPException where
    none can be looked up."""
    rows: list[dict[str, Any]] = []
    refused = []
    for index, vote in enumerate(given):
        try:
            rows.append(feedback_row(state, vote(), key_id))
        except HTTPException as error:
            if error.status_code >= 500:
                raise
            refused.append(FeedbackRefused(index=index, message=str(error.detail)))
    return rows, refused


def given(state: ServiceState, identity: UUID, key_id: str | None) -> list[dict[str, Any]]:
    """Every vote on a decision that belongs to the caller. Raises HTTPException."""
    state.decision_log.owned(identity, key_id)
    return read_feedback(state.store.engine, identity)


def _as_given(found: FeedbackRequest) -> FeedbackRequest:
    return found


def scored(line: bytes) -> FeedbackRequest:
    """One output item of an OpenAI evaluation run as a vote. Raises HTTPException.

    The decision is named in the item's data (``decision_id``, or the completion's ``mixllm`` field);
    the quality is the mean of the graders' scores, or whether the item passed.
    """
    check_size(line)
    try:
        item = EvaluationItem.model_validate_json(line)
        scores = [result.score for result in item.results if result.score is not None]
        if scores:
            judged: dict[str, Any] = {"quality": sum(scores) / len(scores)}
        elif item.status in ("pass", "fail"):
            judged = {"satisfied": item.status == "pass"}
        else:
            raise HTTPException(422, f"status {item.status!r} without a score judges nothing")
        source = f"openai-eval:{item.eval_id or 'unnamed'}"[:100]
        return FeedbackRequest(decision_id=item.decision_id, source=source, **judged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        message = f"not an output item of an OpenAI evaluation: {place}: {first['msg']}"
        raise HTTPException(422, message) from error


def append(state: ServiceState, rows: Sequence[dict[str, Any]]) -> None:
    """Write votes to the disk, from where they go to Postgres. Raises HTTPException."""
    if not rows:
        return
    try:
        state.journals["feedback"].append(*rows)
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
        decision, answer = state.decision_log.owned(identity, key_id)
    except SQLAlchemyError as error:
        raise HTTPException(503, AWAY, {"retry-after": "5"}) from error
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
