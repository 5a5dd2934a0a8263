"""How long a candidate makes an answer wait, from the requests in flight and what was measured.

A candidate that answers ``concurrency`` requests at once is a first-come-first-served queue with so
many servers: a new request starts when the first server is free, once all before it have theirs
(Kiefer and Wolfowitz, 1955). Service times are predicted per request and corrected by a factor,
``slowness``, learned from those measured. What an endpoint makes wait by itself (others use it too)
shows in its first tokens. What was learned fades, so that a candidate that was slow is asked again.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.catalog import Candidate

# A candidate that was slow counts half as slow after this long without news.
HALF_LIFE_SECONDS: Final = 60.0
WAITING_HALF_LIFE_SECONDS: Final = 15.0
# Requests' worth of belief in the prediction.
PRIOR_REQUESTS: Final = 3.0
# What is left, in shares of its prediction, of a request that has passed it.
OVERDUE: Final = 0.15
# Unwatched requests that are kept of a candidate: clients who only ask whom to ask may be more than it
# could ever serve, and every decision looks through them.
MAX_UNWATCHED: Final = 2000


@dataclass(frozen=True)
class Delays:
    """What traffic makes of the catalog's times: time = waiting + slowness · (catalog's time).

    waiting: (L,) seconds. slowness: (L,) factors around 1.
    """

    waiting: np.ndarray
    slowness: np.ndarray


@dataclass
class Fading:
    """A sum whose older parts count less: half after each half-life."""

    half_life: float
    value: float = 0.0
    at: float = 0.0

    def now(self, now: float) -> float:
        return float(self.value * 0.5 ** (max(0.0, now - self.at) / self.half_life))

    def add(self, value: float, now: float) -> None:
        self.value, self.at = self.now(now) + value, now


@dataclass
class Request:
    """One in flight. predicted: its service time in seconds, as the catalog has it. watched: whether
    its end will be told; one that is not is over when its prediction is. started: when it was sent
    on, None while it waits. first_token: seconds from there to its first token."""

    predicted: float
    predicted_first_token: float
    watched: bool = True
    started: float | None = None
    first_token: float | None = None

    @classmethod
    def of(cls, entry: Candidate, response_tokens: float, *, watched: bool = True) -> Request:
        """A request to a candidate, with the times that its catalog entry predicts."""
        first = entry.time_to_first_token
        return cls(first + response_tokens / entry.tokens_per_second, first, watched)


@dataclass
class CandidateQueue:
    """Requests of one candidate. concurrency: how many it answers at once; None: any number."""

    concurrency: int | None = None
    requests: dict[str, Request] = field(default_factory=dict)
    queued: deque[str] = field(default_factory=deque)
    # No unwatched request is over before this time.
    next_over: float = math.inf
    measured: Fading = field(default_factory=lambda: Fading(HALF_LIFE_SECONDS))
    predicted: Fading = field(default_factory=lambda: Fading(HALF_LIFE_SECONDS))
    count: Fading = field(default_factory=lambda: Fading(HALF_LIFE_SECONDS))
    waited: Fading = field(default_factory=lambda: Fading(WAITING_HALF_LIFE_SECONDS))
    waits: Fading = field(default_factory=lambda: Fading(WAITING_HALF_LIFE_SECONDS))

    def arrive(self, identity: str, request: Request, now: float) -> None:
        if not request.watched and (
            self.concurrency is None or len(self.requests) >= MAX_UNWATCHED
        ):
            return  # nobody waits for it, and nothing will be learned from it
        self.requests[identity] = request
        self.queued.append(identity)
        self._start_next(now)

    def first_token(self, identity: str, now: float) -> None:
        request = self.requests.get(identity)
        if request is not None and request.started is not None and request.first_token is None:
            request.first_token = now - request.started
            self._learn_waiting(request, now)

    def finish(self, identity: str, now: float, *, learn: bool = True) -> None:
        """It was answered, or given up; learn: whether its time says something of the endpoint."""
        request = self.requests.pop(identity, None)
        if request is None:
            return
        if request.started is None:
            self.queued.remove(identity)
        elif learn:
            self._learn_service(request, now - request.started, now)
        self._start_next(now)

    def observe(self, request: Request, took: float, now: float) -> None:
        """Learn from a request that was sent by somebody else, and took so many seconds."""
        if request.first_token is not None:
            self._learn_waiting(request, now)
        self._learn_service(request, took, now)

    def _late(self, request: Request, now: float) -> float:
        """What its first token took beyond the prediction: waiting at the endpoint."""
        expected = self.slowness(now) * request.predicted_first_token
        return 0.0 if request.first_token is None else max(0.0, request.first_token - expected)

    def _learn_waiting(self, request: Request, now: float) -> None:
        self.waited.add(self._late(request, now), now)
        self.waits.add(1.0, now)

    def _learn_service(self, request: Request, took: float, now: float) -> None:
        self.measured.add(max(0.0, took - self._late(request, now)), now)
        self.predicted.add(request.predicted, now)
        self.count.add(1.0, now)

    def slowness(self, now: float) -> float:
        """Measured over predicted service time; 1 with nothing measured of late."""
        count = self.count.now(now)
        if count < 1e-6:
            return 1.0
        measured, predicted = self.measured.now(now), self.predicted.now(now)
        prior = PRIOR_REQUESTS * predicted / count
        return (measured + prior) / (predicted + prior) if predicted > 0 else 1.0

    def waiting(self, now: float) -> float:
        """Seconds that a request arriving now waits before it is served."""
        self._forget_unwatched(now)
        elsewhere = self.waited.now(now) / (self.waits.now(now) + PRIOR_REQUESTS)
        return elsewhere + self._queueing(now)

    def _queueing(self, now: float) -> float:
        if self.concurrency is None or len(self.requests) < self.concurrency:
            return 0.0
        slowness = self.slowness(now)
        free, queued = [], []
        for request in self.requests.values():
            predicted = slowness * request.predicted
            if request.started is None:
                queued.append(predicted)
            else:
                left = predicted - (now - request.started)
                free.append(max(left, OVERDUE * predicted))
        heapq.heapify(free)
        for predicted in queued:
            heapq.heappush(free, heapq.heappop(free) + predicted)
        return free[0]

    def _forget_unwatched(self, now: float) -> None:
        if now <= self.next_over:
            return
        slowness, self.next_over = self.slowness(now), math.inf
        ends = {
            identity: request.started + slowness * request.predicted
            for identity, request in self.requests.items()
            if not request.watched and request.started is not None
        }
        for identity, end in ends.items():
            if end < now:
                self.finish(identity, now, learn=False)
            else:
                self.next_over = min(self.next_over, end)

    def _start_next(self, now: float) -> None:
        busy = len(self.requests) - len(self.queued)
        while self.queued and (self.concurrency is None or busy < self.concurrency):
            request = self.requests[self.queued.popleft()]
            request.started = now
            busy += 1
            if not request.watched:
                end = now + self.slowness(now) * request.predicted
                self.next_over = min(self.next_over, end)


class WaitingTracker:
    """The queues of all candidates. Safe to call from several threads."""

    def __init__(self, concurrency: Mapping[str, int | None] | None = None) -> None:
        self._queues = {name: CandidateQueue(limit) for name, limit in (concurrency or {}).items()}
        self._lock = threading.Lock()

    def limit(self, concurrency: Mapping[str, int | None]) -> None:
        """Take other concurrencies over; what was learned and is in flight stays."""
        with self._lock:
            for name, limit in concurrency.items():
                self._queue(name).concurrency = limit

    def delays(self, candidates: Sequence[str], now: float) -> Delays:
        with self._lock:
            queues = [self._queue(name) for name in candidates]
            return Delays(
                np.array([queue.waiting(now) for queue in queues]),
                np.array([queue.slowness(now) for queue in queues]),
            )

    def arrive(self, llm: str, identity: str, request: Request, now: float) -> None:
        """A request goes to a candidate."""
        with self._lock:
            self._queue(llm).arrive(identity, request, now)

    def observe(self, llm: str, identity: str, request: Request, took: float, now: float) -> None:
        """Somebody tells what a request took that they sent themselves."""
        with self._lock:
            self._queue(llm).finish(identity, now, learn=False)
            self._queue(llm).observe(request, took, now)

    def first_token(self, llm: str, identity: str, now: float) -> None:
        with self._lock:
            self._queue(llm).first_token(identity, now)

    def finish(self, llm: str, identity: str, now: float, *, learn: bool = True) -> None:
        with self._lock:
            self._queue(llm).finish(identity, now, learn=learn)

    def in_flight(self, llm: str) -> int:
        with self._lock:
            return len(self._queue(llm).requests)

    def _queue(self, llm: str) -> CandidateQueue:
        return self._queues.setdefault(llm, CandidateQueue())
