"""Routings as clients see them."""

from __future__ import annotations

from typing import Any

from models.decision.explain import explain
from serving.http.schemas import Predicted, RouteResponse
from serving.routing.router import Routed
from serving.state import ServiceState


def policy_summary(state: ServiceState, release: str) -> dict[str, Any]:
    """The policy state that has a say beside a release, as ``/v1/release`` shows it."""
    stored = state.policy.of(release)
    return {
        "version": stored.version if stored else None,
        "votes": stored.state.counts["applied"] if stored else 0,
        "held_voters": stored.state.voters.held if stored else [],
        "last_error": state.policy.last_error,
    }


def journal_summary(state: ServiceState) -> dict[str, Any]:
    """What waits for Postgres on this machine, what it refused, what could not be written, and why."""
    journals = state.journals.by_name
    return {
        "unwritten_decisions": journals["decisions"].files.count(),
        "unwritten_answers": journals["answers"].files.count(),
        "unwritten_feedback": journals["feedback"].files.count(),
        "dead_letters": {name: journal.dead_letters.count() for name, journal in journals.items()},
        "rows_lost": {name: journal.lost for name, journal in journals.items()},
        "database_error": state.journals.database_error,
        "disk_error": state.journals.disk_error,
    }


def route_response(routed: Routed, *, explained: bool) -> RouteResponse:
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


def challenger_summary(state: ServiceState) -> dict[str, Any] | None:
    """What decides in shadow, and whom it answers; None where nothing does."""
    challenger = state.challenger
    if challenger.running is None and challenger.last_error is None:
        return None
    canary = challenger.canary
    return {
        "version": challenger.running.version if challenger.running else None,
        "shadow": state.settings.shadow,
        "canary": {"share": canary.share, "by": canary.by} if canary else None,
        "last_error": challenger.last_error,
    }
