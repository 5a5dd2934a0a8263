"""The experiment over HTTP: the service in front of a simulated fleet."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from experiments.latency.simulation import (
    Served,
    Workload,
)
from infra.addresses import free_loopback_port, sqlite_url
from infra.fleet.answers import RecordedAnswers
from infra.fleet.server import Fleet, with_upstreams
from infra.fleet.thread import FleetThread
from infra.settings import Settings
from infra.stack.parts import service_alone
from infra.stack.stack import Stack, stop_survivors, wait_ready
from models.data.evaluation_set import EvaluationSet
from models.decision.estimates import DecisionDefaults
from models.errors import StoreError
from models.release.manifest import read_manifest

Progress = Callable[[int], None]
PATIENCE_SECONDS: Final = 3600.0


class LiveRun:
    """A service and a fleet, both ``speed`` times as fast as the catalog says. A context."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        test: EvaluationSet,
        concurrency: int,
        speed: float,
        say: Callable[[str], None],
    ) -> None:
        self.speed = speed
        self.home = settings.home / "latency-experiment"
        stop_survivors(self.home, say)  # of an experiment that was killed
        shutil.rmtree(self.home, ignore_errors=True)
        fleet = Fleet(test.catalog, RecordedAnswers(test), concurrency, speed)
        self._fleet = FleetThread(fleet)
        scale_release(folder, self.home / "registry", self._fleet.address, concurrency, speed)
        self.settings = settings.model_copy(
            update={
                "home": self.home,
                "port": free_loopback_port(),
                "api_key": None,
                "catalog": None,
            }
        )
        self._stack = Stack(self.settings, say)

    def __enter__(self) -> LiveRun:
        self._fleet.__enter__()
        # A registry with nothing in it: the release on disk answers.
        empty = sqlite_url(self.home / "mlflow.db")
        self._stack.start(service_alone(MIXLLM_MLFLOW_URI=empty))
        wait_ready(self.settings)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.stop()
        self._fleet.__exit__()

    def send(
        self,
        workload: Workload,
        queries: Sequence[str],
        defaults: DecisionDefaults,
        progress: Progress,
    ) -> Served:
        """Send every query when it arrives; seconds come back unscaled."""
        options = {
            "willingness_to_pay": defaults.willingness_to_pay,
            "beta": defaults.beta,
            "fallback": False,
        }
        url = f"{self.settings.service_url}/v1/chat/completions"
        return asyncio.run(self._send(url, workload, queries, options, progress))

    async def _send(
        self,
        url: str,
        workload: Workload,
        queries: Sequence[str],
        options: dict[str, Any],
        progress: Progress,
    ) -> Served:
        count, index = len(workload), {n: i for i, n in enumerate(workload.candidates)}
        picks, seconds = np.zeros(count, dtype=int), np.full(count, np.nan)
        begun = time.monotonic()

        async def one(session: aiohttp.ClientSession, i: int) -> None:
            due = begun + float(workload.arrivals[i]) / self.speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            messages = [{"role": "user", "content": queries[i % len(queries)]}]
            body = {"model": "mixllm", "messages": messages, "mixllm": options}
            async with session.post(url, json=body, timeout=patience) as response:
                answer = await response.json()
                if response.status != 200:
                    raise StoreError(f"the service answered {response.status}: {answer}")
            seconds[i] = (time.monotonic() - due) * self.speed
            picks[i] = index[answer["mixllm"]["llm"]]
            progress(1)

        patience = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for i in range(count):
                group.create_task(one(session, i))
        rows = np.arange(count)
        return Served(picks, workload.quality[rows, picks], workload.cost[rows, picks], seconds)


def scale_release(
    folder: Path, registry: Path, address: str, concurrency: int, speed: float
) -> None:
    """Copy a release to where a service finds it on its disk, its times divided by speed and a
    fleet as every upstream."""
    copy = registry / "releases" / "1"
    shutil.copytree(folder, copy)
    manifest = read_manifest(copy)
    llms = tuple(
        entry.model_copy(
            update={
                "time_to_first_token": entry.time_to_first_token / speed,
                "tokens_per_second": entry.tokens_per_second * speed,
            }
        )
        for entry in manifest.catalog.llms
    )
    catalog = manifest.catalog.model_copy(update={"llms": llms})
    defaults = manifest.defaults.model_copy(
        update={
            "time_limit": manifest.defaults.time_limit / speed,
            "gamma": manifest.defaults.gamma * speed,
        }
    )
    # Whoever waits is answered in the end: late, as in the simulation, not refused.
    patience = {"first_token_timeout": PATIENCE_SECONDS, "total_timeout": PATIENCE_SECONDS}
    catalog = with_upstreams(catalog, address, concurrency=concurrency, retries=0, **patience)
    manifest.model_copy(update={"catalog": catalog, "defaults": defaults}).write(copy)
    (registry / "current-release").write_text("1")
