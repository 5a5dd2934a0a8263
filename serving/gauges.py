"""Gauges of what waits and of who is spared, set once a second."""

from __future__ import annotations

import time
from typing import Final

from models.decision.waiting import WaitingTracker
from serving import metrics
from serving.gateway.gateway import Gateway
from serving.polling import Poller
from serving.records.journals import Journals

SECONDS: Final = 1.0
BREAKER: Final = {"closed": 0.0, "half-open": 0.5}


class Gauges:
    """Sets them on a thread of its own, since on the path of a request each would cost time."""

    def __init__(self, journals: Journals, gateway: Gateway, tracker: WaitingTracker) -> None:
        self._journals, self._gateway, self._tracker = journals, gateway, tracker
        self._poller = Poller("gauges", self._set)

    def start(self) -> None:
        self._poller.start()

    def stop(self) -> None:
        self._poller.stop()

    def _set(self) -> float:
        for name, journal in self._journals.by_name.items():
            metrics.unwritten.labels(name).set(journal.waiting)
            metrics.dead_letters.labels(name).set(journal.dead_letters.count())
        now, endpoints = time.monotonic(), self._gateway.endpoints
        waiting = self._tracker.delays(list(endpoints), now).waiting.tolist()
        for (name, endpoint), seconds in zip(endpoints.items(), waiting, strict=True):
            metrics.breaker.labels(name).set(BREAKER.get(endpoint.breaker.state(now), 1.0))
            metrics.waiting_seconds.labels(name).set(seconds)
            metrics.in_flight.labels(name).set(self._tracker.in_flight(name))
        return SECONDS
