"""What a service process holds: the champion, the journal, the database, recent decisions."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from infra.database import connect, database_address
from infra.settings import Settings
from models.decision import explain
from models.errors import DecisionError
from models.release import Routing
from monitoring.decisions import decision_row, fallback_row, insert_decisions, read_decision
from monitoring.journal import Journal
from monitoring.schema import migrate
from serving import metrics
from serving.champion import Champion, Running
from serving.schemas import Predicted, RouteRequest, RouteResponse

log = logging.getLogger("mixllm.serving")

RECENT: Final = 10_000


class NotReady(Exception):
    """No release is loaded yet: train one and promote it."""


class ServiceState:
    """Built once per process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.champion = Champion(settings)
        self.journal = Journal(settings.home / "journal", self._insert, settings.flush_seconds)
        # The encoder releases the interpreter's lock: a thread a core, and no more.
        self.pool = ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="route")
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._recent: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._recent_lock = threading.Lock()

    def start(self) -> None:
        self.champion.start()
        self.journal.start()

    def stop(self) -> None:
        self.champion.stop()
        self.pool.shutdown(wait=True)
        self.journal.close()

    @property
    def engine(self) -> Engine:
        """The database's engine, migrated; made when first needed, again if it failed."""
        with self._engine_lock:
            if self._engine is None:
                engine = connect(database_address(self.settings.database(), self.settings.home))
                migrate(engine)
                self._engine = engine
            return self._engine

    def _insert(self, rows: Sequence[dict[str, Any]]) -> None:
        try:
            engine = self.engine
        except SQLAlchemyError:
            raise
        except Exception as error:  # the embedded server did not start, say: rows wait
            raise SQLAlchemyError(str(error)) from error
        insert_decisions(engine, rows)
        metrics.waiting.set(self.journal.waiting - len(rows))

    def route(self, request: RouteRequest) -> tuple[RouteResponse, dict[str, float]]:
        """Decide, keep the decision, answer; and the seconds that each part took.

        Raises NotReady, and DecisionError for what the client can mend.
        """
        running = self.champion.running
        if running is None:
            raise NotReady
        start = time.perf_counter()
        try:
            routing = running.release.route(request.query, request, self.champion.disabled)
        except DecisionError:
            raise
        except Exception as error:  # a bug of ours is not the caller's outage
            return self._fall_back(running, request, error, start), {}
        row = decision_row(
            routing,
            running.release,
            running.version,
            request.query,
            self.settings.store_queries,
            time.perf_counter() - start,
        )
        self._keep(row)
        response = answer(routing, running.version, row["id"], request.explain)
        parts = {**vars(routing.timings), "total": time.perf_counter() - start}
        self._observe(routing, running, parts)
        return response, parts

    def _fall_back(
        self, running: Running, request: RouteRequest, error: Exception, start: float
    ) -> RouteResponse:
        reason = f"routing failed: {type(error).__name__}"
        log.error("%s", reason, exc_info=error)
        catalog = running.release.manifest.catalog
        wished = request.candidates or catalog.names
        open_to = [n for n in catalog.names if n in wished and n not in self.champion.disabled]
        llm = catalog.default_candidate
        if open_to and llm not in open_to:
            llm = open_to[0]
        defaults = running.release.manifest.defaults
        wtp = request.willingness_to_pay or defaults.willingness_to_pay
        row = fallback_row(
            llm,
            reason,
            wtp,
            request.query,
            self.settings.store_queries,
            time.perf_counter() - start,
            running.version,
        )
        self._keep(row)
        metrics.fallbacks.labels(type(error).__name__).inc()
        return RouteResponse(
            decision_id=row["id"],
            llm=llm,
            propensity=1.0,
            willingness_to_pay=wtp,
            predicted=None,
            domain=None,
            unseen_score=None,
            release=running.version,
            fallback=reason,
        )

    def _keep(self, row: dict[str, Any]) -> None:
        try:
            self.journal.append(row)
        except OSError as error:  # a full disk is not the caller's outage
            log.error("decision %s could not be kept: %s", row["id"], error)
        metrics.waiting.set(self.journal.waiting)
        with self._recent_lock:
            self._recent[row["id"]] = row
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def _observe(self, routing: Routing, running: Running, parts: dict[str, float]) -> None:
        chosen = routing.decision
        metrics.decisions.labels(chosen.llm, running.version).inc()
        metrics.cost.labels(chosen.llm).inc(float(chosen.estimates.cost[chosen.choice]))
        for part in ("encode", "total"):
            metrics.seconds.labels(part).observe(parts[part])

    def decision(self, identity: UUID) -> dict[str, Any] | None:
        """A decision, from memory while it is recent, else from Postgres."""
        with self._recent_lock:
            row = self._recent.get(str(identity))
        if row is not None:
            return {key: value for key, value in row.items() if key != "embedding"}
        return read_decision(self.engine, identity)


def answer(routing: Routing, version: str, identity: str, explained: bool) -> RouteResponse:
    """A routing as the client sees it."""
    decision = routing.decision
    estimates, i = decision.estimates, decision.choice
    return RouteResponse(
        decision_id=identity,
        llm=decision.llm,
        propensity=decision.propensity,
        willingness_to_pay=decision.willingness_to_pay,
        predicted=Predicted(
            quality=float(estimates.quality[i]),
            cost_usd=float(estimates.cost[i]),
            seconds=float(estimates.time[i]),
            response_tokens=float(estimates.response_tokens[i]),
        ),
        domain=routing.domain,
        unseen_score=routing.unseen_score,
        release=version,
        fallback=None,
        explanation=explain(decision) if explained else None,
    )
