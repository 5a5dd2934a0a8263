import numpy as np
import pytest

from experiments.latency.simulation import (
    Workload,
    area,
    curve,
    poisson_arrivals,
    simulate,
    summarise,
)
from models.decision.estimates import DecisionDefaults, Estimates

DEFAULTS = DecisionDefaults(willingness_to_pay=1.0, alpha=0.0)


def workload(rate: float, concurrency: int, count: int = 400) -> Workload:
    """A better LLM and a worse one, each answer taking 10 seconds."""
    shape = (count, 2)
    quality = np.tile([0.9, 0.6], (count, 1))
    ones = np.ones(shape)
    estimates = Estimates(quality, ones, ones, 0.01 * ones, 10 * ones, 0 * ones, 0 * ones)
    return Workload(
        candidates=["good", "spare"],
        estimates=estimates,
        quality=quality,
        cost=0.01 * ones,
        seconds=10 * ones,
        first_token=np.ones(2),
        arrivals=poisson_arrivals(rate, count),
        concurrency=concurrency,
    )


def test_without_load_nothing_waits() -> None:
    served = simulate(workload(0.01, 8), DEFAULTS)
    assert served.seconds == pytest.approx(10.0)
    assert not served.late(30.0).any()
    assert (served.picks == 0).all()


def test_blind_to_time_the_best_one_drowns_and_the_penalty_saves_it() -> None:
    load = workload(rate=1.2, concurrency=8)
    blind = summarise(simulate(load, DEFAULTS.model_copy(update={"beta": 0.0})), ["g", "s"], 30.0)
    aware = summarise(simulate(load, DEFAULTS), ["g", "s"], 30.0)
    assert blind["shares"] == {"g": 1.0}
    assert blind["late"] > 0.6
    assert aware["late"] < 0.02
    assert aware["worth"] > 0.75 > 0.4 > blind["worth"]
    assert blind["quality"] == pytest.approx(0.9)


def test_what_is_served_is_a_queue() -> None:
    """Deterministic arrivals at twice the rate of service: waiting grows by one half service each."""
    load = workload(1.0, 1, 20)
    steady = Workload(**{**vars(load), "arrivals": 5.0 * np.arange(20)})
    served = simulate(steady, DEFAULTS.model_copy(update={"beta": 0.0}))
    assert served.seconds == pytest.approx(10.0 + 5.0 * np.arange(20))


def test_a_curve_has_a_run_for_every_willingness() -> None:
    rows = curve(workload(0.5, 8), DEFAULTS, np.array([0.1, 10.0]))
    assert [row["willingness_to_pay"] for row in rows] == [0.1, 10.0]
    assert 0 < area(rows, 0.005, 0.01) <= 0.9
