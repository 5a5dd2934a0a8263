import heapq

import numpy as np
import pytest

from models.decision.waiting import HALF_LIFE_SECONDS, MAX_UNWATCHED, Request, WaitingTracker


def served(
    rng: np.random.Generator,
    servers: int,
    load: float,
    count: int,
    factor: float = 1.0,
    spread: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, WaitingTracker, float]:
    """A queue with known truth: the wait expected of each arrival, and its wait.

    Service times are log-normal around ``factor`` times what was predicted of each.
    """
    tracker = WaitingTracker({"a": servers})
    predicted = rng.lognormal(0.0, 0.7, count)
    service = factor * predicted * rng.lognormal(-(spread**2) / 2, spread, count)
    arrivals = np.cumsum(rng.exponential(service.mean() / servers / load, count))
    free = [0.0] * servers
    events: list[tuple[float, str]] = []
    expected, waited = np.empty(count), np.empty(count)
    for i, now in enumerate(arrivals):
        while events and events[0][0] <= now:
            at, identity = heapq.heappop(events)
            tracker.finish("a", identity, at)
        expected[i] = tracker.delays(["a"], now).waiting[0]
        start = max(now, heapq.heappop(free))
        waited[i] = start - now
        heapq.heappush(free, start + service[i])
        tracker.arrive("a", str(i), Request(predicted[i], 0.1), now)
        heapq.heappush(events, (start + service[i], str(i)))
    return expected, waited, tracker, float(arrivals[-1])


@pytest.mark.parametrize("servers", [1, 4, 16])
@pytest.mark.parametrize(("load", "factor"), [(0.8, 1.0), (0.95, 0.5), (0.95, 2.0), (1.3, 1.0)])
def test_the_waiting_is_right_within_a_fifth(servers: int, load: float, factor: float) -> None:
    rng = np.random.default_rng(0)
    expected, waited, *_ = served(rng, servers, load, 2500, factor)
    assert expected[500:].mean() == pytest.approx(waited[500:].mean(), rel=0.2)
    assert np.corrcoef(expected[500:], waited[500:])[0, 1] > 0.8


def test_it_recovers_after_a_burst(rng: np.random.Generator) -> None:
    _, waited, tracker, end = served(rng, 2, 3.0, 200, factor=3.0)
    assert tracker.delays(["a"], end).waiting[0] > 0.5 * waited[-1] > 10
    for i in range(200):
        tracker.finish("a", str(i), end, learn=False)
    assert tracker.delays(["a"], end).waiting[0] == 0
    slow = tracker.delays(["a"], end).slowness[0]
    later = tracker.delays(["a"], end + 10 * HALF_LIFE_SECONDS).slowness[0]
    assert slow > 2
    assert later == pytest.approx(1.0, abs=0.1)


def test_an_endpoint_that_others_use_shows_in_its_first_tokens() -> None:
    tracker = WaitingTracker()
    for i in range(20):
        now = 0.1 * i
        tracker.arrive("a", str(i), Request(2.0, 0.5), now)
        tracker.first_token("a", str(i), now + 4.5)
        tracker.finish("a", str(i), now + 6.0)
    found = tracker.delays(["a", "b"], 6.0)
    assert found.waiting[0] == pytest.approx(4.0, rel=0.2)
    assert found.slowness[0] == pytest.approx(1.0, rel=0.05)
    assert found.waiting[1] == 0
    assert tracker.delays(["a"], 600.0).waiting[0] == pytest.approx(0.0, abs=1e-6)


def test_what_nobody_tells_the_end_of_is_over_when_its_prediction_is() -> None:
    tracker = WaitingTracker({"a": 1})
    for i in range(3):
        tracker.arrive("a", str(i), Request(10.0, 1.0, watched=False), 0.0)
    assert tracker.delays(["a"], 0.0).waiting[0] == pytest.approx(30.0)
    assert tracker.delays(["a"], 10.5).waiting[0] == pytest.approx(20.0, rel=0.05)
    tracker.delays(["a"], 21.0)
    assert tracker.delays(["a"], 32.0).waiting[0] == 0
    assert tracker.in_flight("a") == 0


def test_clients_who_only_ask_whom_to_ask_fill_no_queue_without_end() -> None:
    tracker = WaitingTracker({"a": 2})
    for i in range(3 * MAX_UNWATCHED):
        tracker.arrive("a", str(i), Request(10.0, 1.0, watched=False), 0.001 * i)
    assert tracker.in_flight("a") == MAX_UNWATCHED
    tracker.arrive("a", "watched", Request(10.0, 1.0), 7.0)
    assert tracker.in_flight("a") == MAX_UNWATCHED + 1


def test_what_clients_tell_is_learned() -> None:
    tracker = WaitingTracker({"a": 2})
    tracker.arrive("a", "1", Request(1.0, 0.2, watched=False), 0.0)
    for _ in range(20):
        tracker.observe("a", "1", Request(1.0, 0.2), 3.0, 1.0)
    assert tracker.in_flight("a") == 0
    assert tracker.delays(["a"], 1.0).slowness[0] == pytest.approx(3.0, rel=0.2)
