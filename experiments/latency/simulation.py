"""What latency costs: queries arrive at a rate, LLMs have queues, an answer may come too late.

The second experiment of MixLLM (Wang et al., 2025), as a discrete-event simulation: every LLM
answers ``concurrency`` requests at once, first come first served; who answers is decided on arrival
with the delays known then; an answer later than the time limit is worth nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from models.decision.estimates import DecisionDefaults, Estimates, score
from models.decision.waiting import Request, WaitingTracker
from models.evaluation.measures import aiq

BETAS: Final = (0.0, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Workload:
    """Queries to come, what is predicted of them and what is true; each matrix (n, L).

    estimates: with the catalog's times, without delays. seconds: true service times. first_token:
    (L,) seconds. arrivals: (n,) seconds, rising. concurrency: of every LLM.
    """

    candidates: list[str]
    estimates: Estimates
    quality: np.ndarray
    cost: np.ndarray
    seconds: np.ndarray
    first_token: np.ndarray
    arrivals: np.ndarray
    concurrency: int

    def __len__(self) -> int:
        return len(self.arrivals)

    def first(self, count: int) -> Workload:
        """Only the first to arrive."""
        return replace(
            self,
            estimates=self.estimates[:count],
            quality=self.quality[:count],
            cost=self.cost[:count],
            seconds=self.seconds[:count],
            arrivals=self.arrivals[:count],
        )


@dataclass(frozen=True)
class Served:
    """What happened to each query; each (n,). seconds: from arrival to the whole answer; NaN where
    none came."""

    picks: np.ndarray
    quality: np.ndarray
    cost: np.ndarray
    seconds: np.ndarray

    def late(self, time_limit: float) -> np.ndarray:
        return ~(self.seconds <= time_limit)

    def worth(self, time_limit: float) -> np.ndarray:
        """Quality, 0 where the answer came too late."""
        return np.where(self.late(time_limit), 0.0, self.quality)


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> np.ndarray:
    """(count,) seconds: independent arrivals, so many a second on average."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count))


def simulate(workload: Workload, defaults: DecisionDefaults) -> Served:
    """Serve every query in the order of arrival."""
    count, names = len(workload), workload.candidates
    tracker = WaitingTracker(dict.fromkeys(names, workload.concurrency))
    free = [[0.0] * workload.concurrency for _ in names]
    ends: list[tuple[float, str, str]] = []
    picks = np.empty(count, dtype=int)
    seconds = np.empty(count)
    for i, now in enumerate(workload.arrivals.tolist()):
        while ends and ends[0][0] <= now:
            end, llm, identity = heapq.heappop(ends)
            tracker.finish(llm, identity, end)
        delays = tracker.delays(names, now)
        predicted = workload.estimates.time[i]
        time = delays.waiting + delays.slowness * predicted
        row = workload.estimates[i : i + 1]
        timed = Estimates(**{**vars(row), "time": time[None]})
        pick = int(np.argmax(score(timed, defaults).total[0]))
        start = max(now, heapq.heappop(free[pick]))
        end = start + float(workload.seconds[i, pick])
        heapq.heappush(free[pick], end)
        request = Request(float(predicted[pick]), float(workload.first_token[pick]))
        tracker.arrive(names[pick], str(i), request, now)
        heapq.heappush(ends, (end, names[pick], str(i)))
        picks[i], seconds[i] = pick, end - now
    rows = np.arange(count)
    return Served(picks, workload.quality[rows, picks], workload.cost[rows, picks], seconds)


def summarise(served: Served, candidates: Sequence[str], time_limit: float) -> dict[str, Any]:
    """One run in figures."""
    shares = np.bincount(served.picks, minlength=len(candidates)) / len(served.picks)
    came = served.seconds[np.isfinite(served.seconds)]
    return {
        "worth": float(served.worth(time_limit).mean()),
        "quality": float(served.quality.mean()),
        "cost_usd": float(served.cost.mean()),
        "late": float(served.late(time_limit).mean()),
        "seconds_p50": float(np.percentile(came, 50)) if len(came) else None,
        "seconds_p95": float(np.percentile(came, 95)) if len(came) else None,
        "shares": {
            name: round(float(share), 4)
            for name, share in zip(candidates, shares, strict=True)
            if share > 0
        },
    }


def curve(workload: Workload, defaults: DecisionDefaults, grid: np.ndarray) -> list[dict[str, Any]]:
    """One simulated run for every willingness to pay of the grid."""
    found = []
    for value in grid.tolist():
        wished = defaults.model_copy(update={"willingness_to_pay": value})
        served = simulate(workload, wished)
        told = summarise(served, workload.candidates, defaults.time_limit)
        found.append({"willingness_to_pay": value, **told})
    return found


def area(rows: Sequence[dict[str, Any]], low: float, high: float) -> float:
    """AIQ with late answers worth nothing, between two mean costs (USD)."""
    cost = np.array([row["cost_usd"] for row in rows])
    return aiq(cost, np.array([row["worth"] for row in rows]), low, high)
