"""Feedback on answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from serving.http import feedback
from serving.http.bodies import apart
from serving.http.feedback_schemas import (
    FeedbackBatchRequest,
    FeedbackBatchResponse,
    FeedbackEntry,
    FeedbackRequest,
)
from serving.http.guarded_routes import MayFeedBack, State, guarded_router
from serving.http.schemas import ErrorResponse
from serving.lookups import BATCH_SECONDS, SECONDS
from serving.state import ServiceState

NOT_KEPT: dict[int | str, dict[str, Any]] = {
    507: {"model": ErrorResponse, "description": "The disk is full: the feedback is not kept."},
}

router = guarded_router()


@router.post(
    "/feedback",
    summary="Say how good an answer was",
    responses={
        404: {"model": ErrorResponse, "description": "No such decision of yours."},
        **NOT_KEPT,
    },
)
async def give_feedback(vote: FeedbackRequest, state: State, key_id: MayFeedBack) -> dict[str, str]:
    if state.decision_log.remembers(
        vote.decision_id
    ):  # a vote on it waits for no look-up that hangs
        row = feedback.feedback_row(state, vote, key_id)
    else:
        row = await state.lookups.run(SECONDS, feedback.feedback_row, state, vote, key_id)
    await run_in_threadpool(feedback.append, state, [row])
    return {"status": "kept"}


@router.post("/feedback/batch", summary="Say how good many answers were", responses=NOT_KEPT)
async def give_feedback_batch(
    batch: FeedbackBatchRequest, state: State, key_id: MayFeedBack
) -> FeedbackBatchResponse:
    return await keep_each(state, feedback.votes(batch.feedback), key_id)


@router.post(
    "/feedback/import",
    summary="Take the scores of an OpenAI evaluation run, its output items as JSON Lines",
    responses=NOT_KEPT,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def import_feedback(
    request: Request, state: State, key_id: MayFeedBack
) -> FeedbackBatchResponse:
    votes = await apart(request, feedback.scores, await request.body())
    return await keep_each(state, votes, key_id)


@router.get(
    "/decisions/{decision_id}/feedback",
    summary="Every vote on a decision, corrections included",
    responses={404: {"model": ErrorResponse, "description": "No such decision."}},
)
async def decision_feedback(
    decision_id: UUID, state: State, key_id: MayFeedBack
) -> list[FeedbackEntry]:
    rows = await state.lookups.run(SECONDS, feedback.given, state, decision_id, key_id)
    shown = [{**row, "received_at": row["received_at"].isoformat()} for row in rows]
    return [
        FeedbackEntry(**{name: row[name] for name in FeedbackEntry.model_fields}) for row in shown
    ]


async def keep_each(
    state: ServiceState, votes: Sequence[feedback.Vote], key_id: str | None
) -> FeedbackBatchResponse:
    """Keep every vote that can be kept, and say why the others cannot. Raises HTTPException where
    none can be looked up, and Refused where that takes too long: nothing is kept then."""
    rows, refused = await state.lookups.run(BATCH_SECONDS, feedback.rows_of, state, votes, key_id)
    await run_in_threadpool(feedback.append, state, rows)
    return FeedbackBatchResponse(kept=len(rows), refused=refused)
