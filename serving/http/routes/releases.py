"""The release that answers."""

from __future__ import annotations

from typing import Any

from models.release.manifest import summary
from serving.http.guarded_routes import MayAdminister, MayRoute, State, guarded_router
from serving.http.responses import challenger_summary, journal_summary, policy_summary
from serving.routing.router import NotReady

router = guarded_router()


@router.get("/release", summary="The release that answers")
def release(state: State, key_id: MayRoute) -> dict[str, Any]:
    running = state.champion.running
    if running is None:
        raise NotReady
    return {
        "version": running.version,
        "source": running.source,
        "since": running.since,
        **summary(running.release.manifest),
        "disabled": sorted(state.champion.disabled),
        "upstreams": sorted(state.champion.upstreams),
        "last_error": state.champion.last_error,
        "catalog_error": state.champion.catalog_error,
        "policy": policy_summary(state, running.release.digest),
        "challenger": challenger_summary(state),
        **journal_summary(state),
    }


@router.post("/refresh", summary="Look for a new champion and disabled candidates now")
async def refresh(state: State, key_id: MayAdminister) -> dict[str, str]:
    state.champion.refresh()
    return {"status": "asked"}
