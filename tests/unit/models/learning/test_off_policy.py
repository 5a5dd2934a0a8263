from collections.abc import Callable

import numpy as np
import pytest

from models.learning.off_policy import (
    LoggedVotes,
    compare_policies,
    evaluate_policy,
    ope_table,
    resamples,
)

COUNT = 4


def world(
    rng: np.random.Generator, n: int, epsilon: float, model: Callable[[np.ndarray], np.ndarray]
) -> tuple[LoggedVotes, np.ndarray, np.ndarray]:
    """(log, true mean reward (n, L), a better policy than the logged)."""
    truth = rng.uniform(0.2, 0.9, size=(n, COUNT))
    logged = np.full((n, COUNT), epsilon / COUNT)
    logged[np.arange(n), rng.integers(COUNT, size=n)] += 1 - epsilon
    choice = np.array([rng.choice(COUNT, p=row) for row in logged])
    rows = np.arange(n)
    reward = (rng.random(n) < truth[rows, choice]).astype(float)
    target = np.eye(COUNT)[np.argmax(truth, axis=1)]
    return LoggedVotes(choice, logged[rows, choice], reward, model(truth)), truth, target


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_estimates_hold_the_truth(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    log, truth, target = world(
        rng, 4000, 0.4, lambda t: np.clip(t + noise * rng.normal(size=t.shape), 0, 1)
    )
    found = evaluate_policy(log, target, resamples(len(log)))
    true = float((target * truth).sum(axis=1).mean())
    for value in (found.ips, found.snips, found.dr):
        width = value.high - value.low
        assert value.low - width / 2 < true < value.high + width / 2
    assert found.dr.high - found.dr.low < found.ips.high - found.ips.low
    assert found.mean_weight == pytest.approx(1.0, abs=0.15)
    assert found.unsupported == 0.0
    assert found.supported


def test_doubly_robust_forgives_a_wrong_model(rng: np.random.Generator) -> None:
    log, truth, target = world(rng, 6000, 0.5, lambda t: np.full(t.shape, 0.1))
    found = evaluate_policy(log, target, resamples(len(log)))
    assert found.dr.value == pytest.approx(float((target * truth).sum(axis=1).mean()), abs=0.05)


def test_a_log_without_exploration_cannot_tell(rng: np.random.Generator) -> None:
    log, _, target = world(rng, 2000, 0.0, lambda t: t)
    found = evaluate_policy(log, target, resamples(len(log)))
    assert found.unsupported == pytest.approx(0.75, abs=0.05)
    assert not found.supported
    compared = compare_policies(log, {"a": target, "b": target[::-1]}, "a", "b")
    assert compared["verdict"] == "unknown"
    assert "Explore" in ope_table(compared)


def test_votes_that_never_fell_on_what_differs_tell_nothing(rng: np.random.Generator) -> None:
    """Exploration was on, but nothing was drawn: the weights look well, their mean does not."""
    log, _, _ = world(rng, 1500, 0.02, lambda t: t)
    best = log.propensity > 0.5
    log = LoggedVotes(log.choice[best], log.propensity[best], log.reward[best], log.model[best])
    logged = np.eye(COUNT)[log.choice]
    same = compare_policies(log, {"a": logged, "b": logged}, "a", "b")
    assert same["verdict"] == "no worse"
    assert same["differing"]["share"] == 0.0
    elsewhere = logged.copy()
    moved = rng.random(len(log)) < 0.2
    elsewhere[moved] = np.roll(logged[moved], 1, axis=1)
    found = compare_policies(log, {"a": elsewhere, "b": logged}, "a", "b")
    assert found["differing"]["share"] == pytest.approx(0.2, abs=0.05)
    assert found["policies"]["a"]["mean_weight"] < 0.9
    assert found["policies"]["a"]["effective"] > 1000
    assert not found["policies"]["a"]["supported"]


def test_the_better_policy_is_found_better_and_the_worse_worse(rng: np.random.Generator) -> None:
    log, truth, target = world(rng, 4000, 0.5, lambda t: t)
    poor = np.eye(COUNT)[np.argmin(truth, axis=1)]
    found = compare_policies(log, {"a": target, "b": poor}, "a", "b")
    assert found["verdict"] == "better"
    assert found["gain"]["low"] > 0.3
    assert compare_policies(log, {"a": poor, "b": target}, "a", "b")["verdict"] == "worse"
    assert compare_policies(log, {"a": target, "b": target}, "a", "b")["verdict"] == "no worse"
    assert "**better**" in ope_table(found)
