"""Start deployments for what waits: votes, a full window, an alert without a repair."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from prefect.deployments import run_deployment
from sqlalchemy import Engine

from flows.context import Scene
from infra.registry.records import CHAMPION
from infra.settings import Settings
from models.release.manifest import read_manifest
from monitoring.drift.alert_log import open_alerts
from monitoring.drift.checks import waiting
from monitoring.learning.policy_states import last_cursor
from monitoring.store.feedback import last_position
from monitoring.store.schema import open_store

CHECK_DRIFT: Final = "check-drift/drift"
REPAIR: Final = "repair/repair"
# An alert's event starts its repair by then, or never.
EVENT_TIME: Final = timedelta(seconds=60)
LOOK_SECONDS: Final = 10.0
LATE_WINDOW_SECONDS: Final = 120.0

LEARN: Final = "learn-from-feedback/learn"
LATE_VOTES_SECONDS: Final = 60.0


class Watch:
    """Starts deployments for what waits: a full window, an alert whose event started nothing."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._window, self._asked_at = -1, 0.0
        self._alerts: set[int] = set()

    def look(self) -> None:
        """Check once.

        A window is requested again only after a while, an alert never: the schedule covers the rest.
        """
        version = self.scene.registry.alias(CHAMPION)
        if version is None:
            return
        release = read_manifest(self.scene.registry.fetch(version)).digest
        full, after = waiting(self.scene.engine, release, self.scene.sizes)
        late = time.monotonic() - self._asked_at > LATE_WINDOW_SECONDS
        if full and (after != self._window or late):
            run_deployment(CHECK_DRIFT, timeout=0, as_subflow=False)
            self._asked_at, self._window = time.monotonic(), after
        before = datetime.now(UTC) - EVENT_TIME
        alerts = open_alerts(self.scene.engine)
        missed = {alert.id for alert in alerts if alert.raised_at < before} - self._alerts
        if missed:
            run_deployment(REPAIR, timeout=0, as_subflow=False)
            self._alerts |= missed


def watch_decisions(settings: Settings, stop: threading.Event) -> None:
    """Check every few seconds until stop is set."""
    watch: Watch | None = None
    while not stop.wait(LOOK_SECONDS):
        try:
            watch = watch or Watch(Scene.open())
            watch.look()
        except Exception as error:  # noqa: BLE001 - the thread must outlive any outage
            print(f"drift: {error}", flush=True)


def watch_feedback(settings: Settings, stop: threading.Event) -> None:
    """Start the learning flow when there is feedback that no state has learned; again only once that
    is done, or after a while."""
    engine: Engine | None = None
    asked, since = 0, 0.0
    while not stop.wait(LOOK_SECONDS):
        try:
            engine = engine or open_store(settings)
            position = last_position(engine)
            done = last_cursor(engine) >= asked or time.monotonic() - since > LATE_VOTES_SECONDS
            if position > max(asked, last_cursor(engine)) and done:
                run_deployment(LEARN, timeout=0, as_subflow=False)
                asked, since = position, time.monotonic()
        except Exception as error:  # noqa: BLE001 - the thread must outlive any outage
            print(f"feedback: {error}", flush=True)
