"""Decisions that were made, and what became of them."""

from __future__ import annotations

from uuid import UUID

from starlette.concurrency import run_in_threadpool

from serving.http.feedback_schemas import Observation
from serving.http.guarded_routes import MayFeedBack, MayRoute, State, guarded_router
from serving.http.observations import observe, observed
from serving.http.schemas import DecisionResponse, ErrorResponse
from serving.lookups import SECONDS

router = guarded_router()


@router.post(
    "/observations",
    summary="Tell how the chosen LLM answered, where you asked it yourself",
    status_code=202,
    responses={404: {"model": ErrorResponse, "description": "No such decision."}},
)
async def observations(observation: Observation, state: State, key_id: MayRoute) -> dict[str, str]:
    if state.decision_log.remembers(observation.decision_id):
        rows = observed(state, observation, key_id)
    else:
        rows = await state.lookups.run(SECONDS, observed, state, observation, key_id)
    kept = await run_in_threadpool(observe, state, observation, *rows)
    return {"status": "kept" if kept else "known already"}


@router.get(
    "/decisions/{decision_id}",
    summary="A decision that was made, and what became of it",
    responses={404: {"model": ErrorResponse, "description": "No such decision."}},
)
async def decision(decision_id: UUID, state: State, key_id: MayFeedBack) -> DecisionResponse:
    row = await state.lookups.run(SECONDS, state.decision_log.shown, decision_id, key_id)
    return DecisionResponse(**row)
