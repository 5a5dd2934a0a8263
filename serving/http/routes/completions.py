"""Chat completions in OpenAI's form, and the models that they may name."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from serving.http import chat
from serving.http.chat_reading import ROUTED
from serving.http.chat_schemas import ChatRequest, ChatResponse, ModelEntry, ModelList
from serving.http.guarded_routes import MayRoute, State, guarded_router
from serving.http.schemas import ErrorResponse

CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The LLM refused what was asked."},
    404: {"model": ErrorResponse, "description": "No such model."},
    502: {"model": ErrorResponse, "description": "No LLM answered."},
    504: {"model": ErrorResponse, "description": "No LLM answered in time."},
}
STREAM = {"text/event-stream": {"schema": {"type": "string"}}}

router = guarded_router()


@router.post(
    "/chat/completions",
    summary="Ask the best LLM, in OpenAI's form",
    response_model=ChatResponse,
    responses={200: {"content": STREAM}, **CHAT_ERRORS},
)
async def completions(
    asked: ChatRequest, request: Request, state: State, key_id: MayRoute
) -> Response:
    return await chat.complete(asked, request, state, key_id)


@router.get("/models", summary="The names that a chat completion's model may have")
async def models(state: State, key_id: MayRoute) -> ModelList:
    state.gateway.follow(state.champion.upstreams)
    since = round(state.champion.running.since) if state.champion.running else 0
    names = [ROUTED, *state.gateway.endpoints]
    return ModelList(data=[ModelEntry(id=n, created=since, owned_by="mixllm") for n in names])


@router.get(
    "/models/{model_id:path}",
    summary="One of the names that a chat completion's model may have",
    responses={404: {"model": ErrorResponse, "description": "No such model."}},
)
async def model(model_id: str, state: State, key_id: MayRoute) -> ModelEntry:
    state.gateway.follow(state.champion.upstreams)
    since = round(state.champion.running.since) if state.champion.running else 0
    if model_id not in (ROUTED, *state.gateway.endpoints):
        raise chat.unknown_model(model_id, state.gateway.endpoints)
    return ModelEntry(id=model_id, created=since, owned_by="mixllm")
