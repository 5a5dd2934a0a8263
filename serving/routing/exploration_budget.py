"""How much exploration may still cost today."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import numpy as np

from models.decision.decide import Decision
from serving import metrics


class ExplorationBudget:
    """What was spent today (UTC) on choices that were not the best, by prediction.

    limit: USD a day; None for none. Safe to use from several threads.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self._day = datetime.now(UTC).date()
        self._usd = 0.0
        self._lock = threading.Lock()

    def note(self, decision: Decision) -> None:
        """Count a decision; what is cheaper than the best makes up for nothing."""
        best = int(np.argmax(decision.ranking))
        if decision.choice == best:
            return
        metrics.explored.labels(decision.llm).inc()
        extra = float(decision.estimates.cost[decision.choice] - decision.estimates.cost[best])
        with self._lock:
            self._turn_day()
            self._usd += max(extra, 0.0)

    @property
    def spent(self) -> bool:
        """Whether today's limit is reached."""
        with self._lock:
            self._turn_day()
            return self.limit is not None and self._usd >= self.limit

    def _turn_day(self) -> None:
        today = datetime.now(UTC).date()
        if today > self._day:  # a clock that goes back gives nobody a second budget
            self._day, self._usd = today, 0.0
