"""Routings as clients see them."""

from __future__ import annotations

from models.decision import explain
from serving.routing import Routed
from serving.schemas import Predicted, RouteResponse


def route_response(routed: Routed, explained: bool) -> RouteResponse:
    """The answer of ``/v1/route``."""
    routing = routed.routing
    predicted = None
    if routing is not None:
        estimates, i = routing.decision.estimates, routing.decision.choice
        predicted = Predicted(
            quality=float(estimates.quality[i]),
            cost_usd=float(estimates.cost[i]),
            seconds=float(estimates.time[i]),
            response_tokens=float(estimates.response_tokens[i]),
        )
    return RouteResponse(
        decision_id=routed.decision_id,
        llm=routed.llm,
        propensity=routed.propensity,
        willingness_to_pay=routed.willingness_to_pay,
        predicted=predicted,
        domain=routing.domain if routing else None,
        unseen_score=routing.unseen_score if routing else None,
        release=routed.release,
        fallback=routed.fallback,
        explanation=explain(routing.decision) if routing and explained else None,
    )
