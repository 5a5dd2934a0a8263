"""``/v1/route``: whom to ask."""

from __future__ import annotations

import asyncio

from fastapi import Response

from models.decision.wishes import Wishes
from serving.http.guarded_routes import MayRoute, State, guarded_router
from serving.http.observations import sent
from serving.http.responses import route_response
from serving.http.schemas import RouteRequest, RouteResponse
from serving.routing.request import RoutingRequest
from serving.state import ServiceState

router = guarded_router()


@router.post("/route", summary="Choose an LLM for a query", response_model=RouteResponse)
async def route(request: RouteRequest, state: State, key_id: MayRoute) -> Response:
    state.keys.check_budget(key_id)
    state.gateway.follow(state.champion.upstreams)
    loop = asyncio.get_running_loop()
    wanted = routing_request(request, state, key_id)
    routed, parts = await loop.run_in_executor(state.pool, state.router.decide, wanted)
    sent(state, routed)
    state.router.sessions.note(key_id, request.session, routed.llm)
    timing = ", ".join(f"{part};dur={1000 * value:.3f}" for part, value in parts.items())
    # Made of its own model already: FastAPI need not check it again.
    return Response(
        route_response(routed, explained=request.explain).model_dump_json(),
        media_type="application/json",
        headers={"server-timing": timing},
    )


def routing_request(
    request: RouteRequest, state: ServiceState, key_id: str | None
) -> RoutingRequest:
    """What ``/v1/route`` decides."""
    wishes = Wishes(**{name: getattr(request, name) for name in Wishes.model_fields})
    unavailable = state.gateway.unavailable()
    return RoutingRequest(
        request.query, wishes, session=request.session, key_id=key_id, unavailable=unavailable
    )
