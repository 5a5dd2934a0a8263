"""Routes that check the caller's key before they read the body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

from serving.http.bodies import BodyRequest
from serving.http.schemas import ErrorResponse
from serving.state import ServiceState

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body cannot be parsed."},
    401: {"model": ErrorResponse, "description": "The API key is missing or wrong."},
    403: {"model": ErrorResponse, "description": "The API key lacks the scope."},
    408: {"model": ErrorResponse, "description": "The body came too slowly."},
    413: {"model": ErrorResponse, "description": "The body is too large."},
    415: {"model": ErrorResponse, "description": "The body is not said to be JSON."},
    422: {"model": ErrorResponse, "description": "The request is not valid."},
    429: {"model": ErrorResponse, "description": "The key's rate or budget is used up."},
    431: {"model": ErrorResponse, "description": "The headers are too large."},
    503: {"model": ErrorResponse, "description": "No release is loaded yet."},
}


async def current_state(request: Request) -> ServiceState:
    state: ServiceState = request.app.state.get_state()
    return state


State = Annotated[ServiceState, Depends(current_state)]


class Caller:
    """A dependency: the id of the request's key. scope: what the key must have.

    ``GuardedRoute`` has checked it, before the body was read.
    """

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> str | None:
        key_id: str | None = request.state.key_id
        return key_id


class GuardedRoute(APIRoute):
    """A route that checks the key before anything of the body is read or parsed.

    Every such route takes its caller as a dependency; one that does not cannot be made.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        calls = (dependency.call for dependency in self.dependant.dependencies)
        (scope,) = (call.scope for call in calls if isinstance(call, Caller))

        async def guarded(request: Request) -> Response:
            state = await current_state(request)
            request.state.key_id = state.keys.admit(request.headers, scope)
            return await handle(BodyRequest(request.scope, request.receive))

        return guarded


MayRoute = Annotated[str | None, Depends(Caller("route"))]
MayFeedBack = Annotated[str | None, Depends(Caller("feedback"))]
MayAdminister = Annotated[str | None, Depends(Caller("admin"))]
# What the description says of keys; ``GuardedRoute`` checks them.
KEYS = [
    Security(HTTPBearer(auto_error=False, description="mixllm keys create")),
    Security(APIKeyHeader(name="x-api-key", auto_error=False)),
]


def guarded_router() -> APIRouter:
    """A router under ``/v1`` whose routes name the scope that a key must have."""
    return APIRouter(prefix="/v1", responses=ERRORS, dependencies=KEYS, route_class=GuardedRoute)
