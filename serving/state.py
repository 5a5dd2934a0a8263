"""What a service process is made of, and the order in which its parts start and stop."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from infra.settings import Settings
from models.decision.waiting import WaitingTracker
from models.release.manifest import Manifest
from monitoring.store.releases import release_row
from serving.access.keys import KeyRing
from serving.gateway.call_costs import dearest
from serving.gateway.completion import Job
from serving.gateway.gateway import Gateway
from serving.gauges import Gauges
from serving.lookups import Lookups
from serving.records.connection import StoreConnection
from serving.records.decision_log import DecisionLog
from serving.records.finished_chats import FinishedChats
from serving.records.journals import Journals
from serving.routing.challenger import Challenger
from serving.routing.champion import Champion
from serving.routing.policy_follower import PolicyFollower
from serving.routing.router import Deciders, Router


class ServiceState:
    """Built once per process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = StoreConnection(settings)
        self.champion = Champion(settings, self._keep_release)
        self.journals = Journals(settings, self.store, self._running)
        self.tracker = WaitingTracker()
        self.keys = KeyRing(settings, lambda: self.store.engine)
        self.decision_log = DecisionLog(self.journals, self.store, self.keys)
        self.policy = PolicyFollower(settings, self.champion, lambda: self.store.engine)
        self.challenger = Challenger(settings, self.tracker, self._keep_shadow, self._keep_release)
        self.champion.followers.append(self.challenger)
        self.router = Router(
            settings,
            Deciders(self.champion, self.challenger, self.policy),
            self.keys,
            self.tracker,
            self.decision_log.keep,
        )
        finished = FinishedChats(self.decision_log, whole_errors=settings.store_queries == "full")
        self.gateway = Gateway(self.tracker, finished.record, self._hold)
        self.lookups = Lookups()
        # The encoder releases the interpreter's lock: a thread a core, and no more.
        self.pool = ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="route")
        self._gauges = Gauges(self.journals, self.gateway, self.tracker)

    def start(self) -> None:
        self.keys.start(self.decision_log.recall())
        self.journals.start()
        self.challenger.start()
        self.champion.start()
        self.policy.start()
        self._gauges.start()

    def stop(self) -> None:
        self._gauges.stop()
        self.champion.stop()
        self.challenger.stop()
        self.policy.stop()
        self.keys.stop()
        self.lookups.stop()
        self.pool.shutdown(wait=True)
        self.journals.close()

    def _running(self) -> tuple[str, str]:
        """Digest and version of the release that answers."""
        running = self.champion.running
        return (running.release.digest, running.version) if running else ("", "none")

    def _keep_release(self, manifest: Manifest, version: str) -> None:
        self.journals.keep("releases", release_row(manifest, version))

    def _keep_shadow(self, row: dict[str, Any]) -> None:
        self.journals.keep("shadows", row)

    def _hold(self, job: Job, llm: str) -> None:
        """Reserve what an LLM's answer may cost at most. Raises Refused."""
        self.keys.hold(job.key_id, job.decision_id, lambda: job.lost + dearest(job, llm))
