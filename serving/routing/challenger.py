"""The challenger: decides in shadow on a share of the live queries, or answers a canary's share."""

from __future__ import annotations

import hashlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from infra.settings import Settings
from models.decision.decide import Decision
from models.decision.waiting import WaitingTracker
from models.decision.wishes import Wishes
from models.errors import RegistryError
from models.release.manifest import Manifest
from models.release.release import Release, RouteContext, Routing
from serving import metrics
from serving.routing.champion import Running, short
from serving.routing.request import RoutingRequest

if TYPE_CHECKING:
    from infra.registry.records import Canary
    from infra.registry.registry import Registry

log = logging.getLogger("mixllm.challenger")

# Queries that wait for the shadow at most: beyond that they go without.
WAITING: Final = 64
ALIAS: Final = "challenger"


@dataclass(frozen=True)
class Offered:
    """A decision that the challenger may make too. disabled: whom nobody could get. seconds: what
    the champion's routing took."""

    decision_id: str
    request: RoutingRequest
    wishes: Wishes
    routing: Routing
    champion: Running
    disabled: frozenset[str]
    seconds: float


class Challenger:
    """Follows the alias; loads the release beside the champion, on one thread of its own decides what it
    is offered, and keeps that. It never answers, but for a canary's share.

    keep: takes a shadow decision's row. note: told a release that comes to answer, and its version.
    """

    def __init__(
        self,
        settings: Settings,
        tracker: WaitingTracker,
        keep: Callable[[dict[str, Any]], None],
        note: Callable[[Manifest, str], None] = lambda *_: None,
    ) -> None:
        self.settings, self.tracker = settings, tracker
        self.running: Running | None = None
        self.canary: Canary | None = None
        self.last_error: str | None = None
        self._keep, self._note_answers = keep, note
        self._refused: str | None = None
        self._offers: queue.Queue[Offered | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="challenger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._offers.put(None)
        self._thread.join(timeout=10)

    def follow(self, registry: Registry, champion: Running | None) -> None:
        """Load the challenger of now, or forget the one before; read who runs a canary."""
        version = registry.alias(ALIAS)
        wanted = version is not None and champion is not None and version != champion.version
        canary = registry.canary() if wanted else None
        if canary is not None and canary.version != version:
            canary = None
        if not wanted or (self.settings.shadow == 0 and canary is None):
            self.canary = self.running = None
            return
        if self.running is None or self.running.version != version:
            self.canary = None
            self._load(registry, str(version))
        if canary is not None and self.running is not None and self.canary != canary:
            self._note_answers(self.running.release.manifest, self.running.version)
            log.info("canary: release %s answers %.1f %%", version, 100 * canary.share)
        self.canary = canary if self.running is not None else None

    def _load(self, registry: Registry, version: str) -> None:
        self.running = None
        if version == self._refused:
            return
        try:
            folder = registry.fetch(version)
            release = Release.load(folder, self.settings.encoder_threads)
            release.check_probes(folder)
        except RegistryError:
            raise  # says nothing of the release
        except Exception as error:  # noqa: BLE001 - what a bad release raises depends on its content
            self._refused = version
            self.last_error = f"challenger {version} is refused: {short(error)}"
            log.error("%s", self.last_error)
            return
        self.running = Running(release, version, "registry", time.time())
        self.last_error = self._refused = None
        log.info("release %s decides in shadow", version)

    def canary_of(self, key_id: str | None, session: str | None) -> Running | None:
        """The release that answers in the champion's place, if this request is the canary's. A
        conversation stays with whom it began."""
        canary, running = self.canary, self.running
        if canary is None or running is None or running.version != canary.version:
            return None
        if canary.by == "keys":
            drawn = share_of(key_id or "")
        else:
            drawn = random.random() if session is None else share_of(f"{key_id} {session}")
        return running if drawn < canary.share else None

    def asks(self) -> bool:
        """Whether this query is one of those that it decides too."""
        return self.running is not None and random.random() < self.settings.shadow

    def offer(self, offered: Offered) -> None:
        """Let the challenger decide too; never waits."""
        try:
            self._offers.put_nowait(offered)
        except queue.Full:
            metrics.shadows_dropped.inc()

    def _run(self) -> None:
        while (offered := self._offers.get()) is not None:
            running = self.running
            if running is None:
                continue
            try:
                self._keep(self._shadow(running, offered))
                metrics.shadows.labels(running.version).inc()
            except Exception as error:  # noqa: BLE001 - a faulty challenger must not stop the thread
                log.warning("shadow of release %s: %s", running.version, error)

    def _shadow(self, running: Running, offered: Offered) -> dict[str, Any]:
        begun = time.perf_counter()
        decision = self._decide(running.release, offered)
        seconds = time.perf_counter() - begun
        mine = offered.routing.decision.llm
        return {
            "decision_id": offered.decision_id,
            "decided_at": datetime.now(UTC).isoformat(),
            "release_digest": running.release.digest,
            "release_version": running.version,
            "champion_version": offered.champion.version,
            "llm": decision.llm,
            "champion_llm": mine,
            "predicted_gain": gain_over(decision, mine),
            "seconds": seconds + self._reading(running, offered),
            "champion_seconds": offered.seconds,
        }

    def _reading(self, running: Running, offered: Offered) -> float:
        """Seconds that reading the query took, where the champion's encoder has done it."""
        if not same_encoder(running.release, offered):
            return 0.0
        timings = offered.routing.timings
        return timings.tokenize + timings.encode

    def _decide(self, release: Release, offered: Offered) -> Decision:
        context = RouteContext(
            offered.wishes.model_copy(update={"exploration": None}),
            offered.disabled,
            self.tracker.delays(release.candidates, time.monotonic()),
            more_tokens=offered.request.more_tokens,
        )
        if same_encoder(release, offered):
            return release.decide_read(offered.routing.inputs, context)
        return release.route(offered.request.query, context).decision


def same_encoder(release: Release, offered: Offered) -> bool:
    ours, theirs = release.manifest, offered.champion.release.manifest
    return ours.encoder.encoder == theirs.encoder.encoder


def gain_over(decision: Decision, other: str) -> float | None:
    """By the decision's own scores, its choice's less another candidate's; None where that was not to be
    chosen."""
    if other not in decision.candidates:
        return None
    i = decision.candidates.index(other)
    if not decision.allowed[i]:
        return None
    return float(decision.terms.total[decision.choice] - decision.terms.total[i])


def share_of(name: str) -> float:
    """A number in [0, 1) that a name always has."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
