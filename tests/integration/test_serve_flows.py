"""What a start of the flows does to deployments that the Prefect server knows."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Running, Scheduled
from prefect.testing.utilities import prefect_test_harness

from flows import serve
from flows.deployments import Deployment
from flows.serve import catch_up, find, read_runs, to_serve


@flow(name="nothing")  # type: ignore[untyped-decorator]
def nothing() -> None:
    """Does nothing."""


HOURLY = Deployment(nothing, "hourly", "Does nothing, hourly.", cron="0 * * * *")


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    with (
        prefect_test_harness(server_startup_timeout=180),
        get_client(sync_client=True) as opened,
    ):
        yield opened


def start(client: SyncPrefectClient) -> None:
    """As ``main`` does, up to serving."""
    to_serve(HOURLY, find(client, HOURLY.full_name)).apply()


def test_a_cron_changed_in_prefect_stays(client: SyncPrefectClient) -> None:
    start(client)
    deployment = find(client, HOURLY.full_name)
    assert deployment is not None
    assert [s.schedule.cron for s in deployment.schedules] == ["0 * * * *"]
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1
    client.update_deployment_schedule(
        deployment.id,
        deployment.schedules[0].id,
        active=False,
        schedule=CronSchedule(cron="5 4 * * *"),
    )
    start(client)
    deployment = find(client, HOURLY.full_name)
    assert deployment is not None
    assert [(s.schedule.cron, s.active) for s in deployment.schedules] == [("5 4 * * *", False)]


def test_a_stop_pauses_no_deployment(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is paused stays so at the next start, as people may have wanted it."""

    def served(*deployments: RunnerDeployment, **options: Any) -> None:
        """Prefect's ``serve``, stopped as soon as it has started."""

        async def run() -> None:
            runner = Runner(**options)
            for deployment in deployments:
                await runner.aadd_deployment(deployment)
            async with runner:
                pass

        asyncio.run(run())

    monkeypatch.setattr(serve, "DEPLOYMENTS", (HOURLY,))
    monkeypatch.setattr(serve, "serve", served)
    for watch in ("watch_feedback", "watch_decisions"):
        monkeypatch.setattr(serve, watch, lambda *_: None)
    monkeypatch.setattr(serve, "bypass_proxy", lambda: None)
    serve.main()
    deployment = find(client, HOURLY.full_name)
    assert deployment is not None
    assert not deployment.paused


def test_missed_runs_are_caught_up_once(client: SyncPrefectClient) -> None:
    start(client)
    deployment = find(client, HOURLY.full_name)
    assert deployment is not None
    made = [
        client.create_flow_run_from_deployment(
            deployment.id,
            state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=hours)),
        ).id
        for hours in (3, 2, 1)
    ]
    running = client.create_flow_run_from_deployment(deployment.id, state=Running()).id
    catch_up(client, deployment, alone=False)
    states = [client.read_flow_run(run).state.type for run in (*made, running)]
    assert states == [
        StateType.CANCELLED, StateType.CANCELLED, StateType.SCHEDULED, StateType.RUNNING,
    ]  # fmt: skip
    catch_up(client, deployment, alone=True)
    assert client.read_flow_run(running).state.type == StateType.CRASHED
    assert read_runs(client, deployment, (StateType.RUNNING,)) == []
