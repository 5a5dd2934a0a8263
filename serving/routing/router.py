"""Decides for a request: by the release, or, where that fails, by the catalog."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from infra.settings import Settings
from models.catalog import Candidate, Catalog
from models.decision.eligibility import Need, eligible
from models.decision.exploration import Exploration
from models.decision.waiting import WaitingTracker
from models.decision.wishes import Wishes
from models.errors import DecisionError
from models.learning.policy_state import PolicyState
from models.release.release import MAX_QUERY_CHARACTERS, RouteContext, Routing
from monitoring.store.decisions import Asked, DecidedBy, Fallback, decision_row, fallback_row
from serving import metrics
from serving.access.keys import KeyRing
from serving.routing.challenger import Challenger, Offered
from serving.routing.champion import Champion, Running
from serving.routing.exploration_budget import ExplorationBudget
from serving.routing.policy_follower import PolicyFollower
from serving.routing.request import RoutingRequest
from serving.routing.sessions import Sessions

log = logging.getLogger("mixllm.routing")


class NotReady(Exception):
    """No release is loaded yet: train one and promote it."""


@dataclass(frozen=True)
class Routed:
    """A decision.

    ranking: the permitted candidates, the choice first.
    entries: the catalog of the release that decided, by name.
    prompt_tokens: of the whole prompt, estimated.
    routing: what it was made from; None where it is a fallback, whose reason ``fallback`` says.
    """

    decision_id: str
    ranking: list[str]
    entries: Mapping[str, Candidate]
    prompt_tokens: float
    willingness_to_pay: float | None
    propensity: float
    release: str | None
    routing: Routing | None
    fallback: str | None

    @property
    def llm(self) -> str:
        return self.ranking[0]


@dataclass(frozen=True)
class Deciders:
    """The releases that decide, and the learned state that they decide by."""

    champion: Champion
    challenger: Challenger
    policy: PolicyFollower


class Router:
    """Decides and keeps the decision. Safe to use from several threads.

    keep: takes the decision's row.
    """

    def __init__(
        self,
        settings: Settings,
        deciders: Deciders,
        keys: KeyRing,
        tracker: WaitingTracker,
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        self.settings, self.keys, self.tracker = settings, keys, tracker
        self.champion, self.challenger = deciders.champion, deciders.challenger
        self.policy = deciders.policy
        self.sessions = Sessions()
        self.budget = ExplorationBudget(settings.exploration_usd_per_day)
        self._keep = keep

    def decide(self, request: RoutingRequest) -> tuple[Routed, dict[str, float]]:
        """A decision, and the seconds that each part took.

        Raises NotReady, and DecisionError for what the client can fix.
        """
        start = time.perf_counter()
        champion = self.champion.running
        if champion is None:
            return self._fall_back(None, request, "no release is loaded", start), {}
        running = self.challenger.canary_of(request.key_id, request.session) or champion
        catalog = running.release.manifest.catalog
        wishes, stored = self._wishes(request, catalog), self.policy.of(running.release.digest)
        try:
            routing = self._route(running, request, wishes, stored.state if stored else None)
        except DecisionError:
            raise
        except Exception as error:  # a bug of ours is not the caller's outage
            reason = f"routing failed: {type(error).__name__}"
            log.error("%s", reason, exc_info=error)
            return self._fall_back(running, request, reason, start), {}
        asked = Asked(request.query, self.settings.store_queries, request.key_id)
        by = DecidedBy(running.version, running.release.digest, stored.version if stored else None)
        row = decision_row(routing, by, asked, time.perf_counter() - start)
        self._keep(row)
        decision = routing.decision
        self.budget.note(decision)
        ranked = [int(i) for i in np.argsort(-decision.ranking, kind="stable")]
        others = [i for i in ranked if decision.allowed[i] and i != decision.choice]
        routed = Routed(
            decision_id=row["id"],
            ranking=[decision.candidates[i] for i in (decision.choice, *others)],
            entries={entry.name: entry for entry in catalog.llms},
            prompt_tokens=float(decision.estimates.prompt_tokens[decision.choice]),
            willingness_to_pay=decision.willingness_to_pay,
            propensity=decision.propensity,
            release=running.version,
            routing=routing,
            fallback=None,
        )
        parts = {**vars(routing.timings), "total": time.perf_counter() - start}
        observe(routed, parts)
        if running is champion and self.challenger.asks():
            closed = request.closed(catalog.names) | request.unavailable | self.champion.disabled
            offered = Offered(row["id"], request, wishes, routing, champion, closed, parts["total"])
            self.challenger.offer(offered)
        return routed, parts

    def _wishes(self, request: RoutingRequest, catalog: Catalog) -> Wishes:
        """What is asked for, what its content needs, and what the key and the service say where
        nothing is."""
        wishes = request.wishes
        added: dict[str, Any] = {}
        if required := catalog.required(request.needs):
            added["abilities"] = tuple(dict.fromkeys((*wishes.abilities, *required)))
        if wishes.switching_cost is None and self.settings.switching_cost:
            added["switching_cost"] = self.settings.switching_cost
        exploration: Exploration | None = wishes.exploration
        exploration = (
            exploration or self.keys.exploration(request.key_id) or self.settings.exploration
        )
        if self.budget.spent:
            exploration = None
        if exploration != wishes.exploration:
            added["exploration"] = exploration
        return wishes.model_copy(update=added) if added else wishes

    def _route(
        self, running: Running, request: RoutingRequest, wishes: Wishes, policy: PolicyState | None
    ) -> Routing:
        release = running.release
        closed = request.closed(release.candidates) | self.champion.disabled
        context = RouteContext(
            wishes,
            disabled=closed | request.unavailable,
            delays=self.tracker.delays(release.candidates, time.monotonic()),
            incumbent=self.sessions.last(request.key_id, request.session),
            more_tokens=request.more_tokens,
            policy=policy,
            number=random.random() if wishes.exploration is not None else 0.0,
        )
        try:
            return release.route(request.query, context)
        except DecisionError:
            if not request.unavailable:
                raise
            return release.route(request.query, replace(context, disabled=closed))

    def fall_back(self, request: RoutingRequest, reason: str) -> Routed:
        """The first candidate that may be asked, for a request that has nothing to route by.

        Raises NotReady, and DecisionError where none may.
        """
        return self._fall_back(self.champion.running, request, reason, time.perf_counter())

    def _fall_back(
        self, running: Running | None, request: RoutingRequest, reason: str, start: float
    ) -> Routed:
        catalog = running.release.manifest.catalog if running else self.champion.spare_catalog
        if catalog is None:
            raise NotReady
        ranking = fallback_ranking(catalog, request, self.champion.disabled, reason)
        wtp = request.wishes.willingness_to_pay
        if wtp is None and running is not None:
            wtp = running.release.manifest.defaults.willingness_to_pay
        asked = Asked(request.query, self.settings.store_queries, request.key_id)
        version = running.version if running else None
        fallback = Fallback(ranking[0], reason, wtp or 0.0, version)
        row = fallback_row(fallback, asked, time.perf_counter() - start)
        self._keep(row)
        metrics.fallbacks.labels(reason.partition(":")[0]).inc()
        entries = {entry.name: entry for entry in catalog.llms}
        tokens = request.prompt_tokens
        return Routed(row["id"], ranking, entries, tokens, wtp, 1.0, version, None, reason)


def fallback_ranking(
    catalog: Catalog, request: RoutingRequest, disabled: frozenset[str], reason: str
) -> list[str]:
    """Who may be asked without a prediction, the default first. Raises DecisionError where nobody
    may."""
    need = Need(
        wishes=request.wishes,
        abilities=tuple(
            dict.fromkeys((*request.wishes.abilities, *catalog.required(request.needs)))
        ),
        prompt_tokens=0.0 if request.pinned else request.prompt_tokens,
        max_response_tokens=request.max_response_tokens,
        reason=reason,
    )
    names = eligible(catalog, need, request.closed(catalog.names) | disabled)
    return [name for name in names if name not in request.unavailable] or names


def routable(text: str) -> str:
    """A conversation's text, cut to what the router takes; its end says what is asked."""
    return text[-MAX_QUERY_CHARACTERS:]


def observe(routed: Routed, parts: dict[str, float]) -> None:
    """Count a decision."""
    assert routed.routing is not None
    decision = routed.routing.decision
    metrics.decisions.labels(decision.llm, routed.release).inc()
    metrics.cost.labels(decision.llm).inc(float(decision.estimates.cost[decision.choice]))
    for part in ("encode", "total"):
        metrics.seconds.labels(part).observe(parts[part])
