"""Serves the flows' deployments to the Prefect server: ``python -m flows.serve``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from prefect import serve
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from flows.deployments import DEPLOYMENTS, Deployment
from flows.watchers import watch_decisions, watch_feedback
from infra.proxy_bypass import bypass_proxy
from infra.settings import read_settings

# The only process that serves these deployments: no run survives its start.
ALONE: Final = "--alone"


def main() -> None:
    bypass_proxy()
    alone = ALONE in sys.argv[1:]
    with get_client(sync_client=True) as client:
        known = {d.full_name: find(client, d.full_name) for d in DEPLOYMENTS}
        for deployment in filter(None, known.values()):
            catch_up(client, deployment, alone=alone)
    for name, watch in (("feedback", watch_feedback), ("decisions", watch_decisions)):
        threading.Thread(
            target=watch, args=(read_settings(), threading.Event()), name=name, daemon=True
        ).start()
    # Pausing is for people: a pause at shutdown would stay after the next start.
    serve(*(to_serve(d, known[d.full_name]) for d in DEPLOYMENTS), pause_on_shutdown=False)


def find(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment as the server has it, with what people have changed."""
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def to_serve(deployment: Deployment, known: DeploymentResponse | None) -> Any:
    """What ``serve`` takes; a deployment that the server knows keeps its schedules."""
    schedules = None
    if known is not None:
        schedules = [
            DeploymentScheduleCreate(
                **s.model_dump(include=set(DeploymentScheduleCreate.model_fields))
            )
            for s in known.schedules
        ]
    return deployment.flow.to_deployment(
        name=deployment.name,
        description=deployment.description,
        tags=["mixllm"],
        concurrency_limit=1,
        triggers=deployment.triggers,
        paused=known.paused if known is not None else None,
        **({"cron": deployment.cron} if schedules is None else {"schedules": schedules}),
    )


def catch_up(client: SyncPrefectClient, known: DeploymentResponse, *, alone: bool) -> None:
    """Keep only the newest of the missed runs, to run now.

    alone: runs that are marked as running have died.
    """
    if alone:
        for run in read_runs(client, known, (StateType.RUNNING, StateType.PENDING)):
            gone = Crashed(message="the process that ran it is gone")
            client.set_flow_run_state(run.id, gone, force=True)
    waiting = read_runs(client, known, (StateType.SCHEDULED,))
    missed = [r for r in waiting if (due := r.expected_start_time) and due < datetime.now(UTC)]
    missed.sort(key=lambda run: run.expected_start_time or datetime.now(UTC))
    for run in missed[:-1]:
        once = Cancelled(message="missed; a later missed run replaces it")
        client.set_flow_run_state(run.id, once, force=True)


def read_runs(
    client: SyncPrefectClient, known: DeploymentResponse, states: Sequence[StateType]
) -> list[FlowRun]:
    """The deployment's runs in these states."""
    runs: list[FlowRun] = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))
        ),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[known.id])),
        limit=200,
    )
    return runs


if __name__ == "__main__":
    main()
