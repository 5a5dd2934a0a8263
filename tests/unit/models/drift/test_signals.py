from typing import Any

import numpy as np
import pytest

from drifts import window
from models.drift.signals import Signal, find_signals, light
from models.drift.state_signals import STATES, poisoned, stale, unstable
from models.drift.statistics import domain_classifier

REFERENCE = window(seed=1000, count=1000)


def lit(**changes: Any) -> set[tuple[str, str | None]]:
    now = window(seed=3, **changes)
    return {s.key for s in find_signals(REFERENCE, now, now) if s.lit}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"worse": {"cheap": 0.35}}, ("predictor-drift", "cheap")),
        ({"longer": {"middle": 2.0}}, ("predictor-drift", "middle")),
        ({"slower": {"dear": 3.0}}, ("slower-than-foreseen", "dear")),
        ({"unseen": 0.2}, ("unseen-domains", None)),
        ({"moved": 1.5}, ("query-drift", None)),
        ({"dearer": 1.6}, ("cost-above-forecast", None)),
        ({"votes": 0.1}, ("feedback-drying-up", None)),
        (
            {"shares": (0.85, 0.1, 0.05), "waits": {"cheap": 3.0}},
            ("latency-cascade", "cheap"),
        ),
    ],
)
def test_each_drift_lights_its_alert_and_no_other(
    changes: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    assert lit(**changes) == {expected}


def test_nothing_is_lit_without_drift() -> None:
    found = [bool(s.lit) for seed in range(30) for s in signals_of(seed)]
    assert len(found) > 300
    assert not any(found)


def signals_of(seed: int) -> list[Signal]:
    now = window(seed=seed)
    return find_signals(REFERENCE, now, now)


def test_a_slow_llm_that_is_left_is_no_cascade() -> None:
    moved: dict[str, Any] = {
        "shares": (0.8, 0.15, 0.05),
        "waits": {"dear": 5.0},
        "slower": {"dear": 5.0},
    }
    assert ("latency-cascade", "cheap") not in lit(**moved)


def test_few_rows_say_nothing() -> None:
    now = window(seed=3, count=10, worse={"cheap": 0.9})
    assert not any(s.lit for s in find_signals(REFERENCE, now, now))


def test_a_seldom_chosen_candidate_is_judged_by_the_recent_rows() -> None:
    shares = (0.96, 0.02, 0.02)
    now = window(seed=3, count=300, shares=shares, worse={"dear": 0.6})
    recent = window(seed=3, count=9000, shares=shares, worse={"dear": 0.6})
    few = {s.subject for s in find_signals(REFERENCE, now, now) if s.lit and s.subject == "dear"}
    more = {
        s.subject for s in find_signals(REFERENCE, now, recent) if s.lit and s.subject == "dear"
    }
    assert (few, more) == (set(), {"dear"})


def test_without_feedback_nothing_is_said_of_quality() -> None:
    now = window(seed=3, votes=0.0)
    found = find_signals(window(seed=5, votes=0.0), now, now)
    assert not any("quality" in s.what for s in found)
    assert not any(s.alert == "feedback-drying-up" for s in found)


def test_p_values_are_corrected_together() -> None:
    def signal(p: float) -> Signal:
        return Signal("unseen-domains", None, "x", 0.0, 1.0, 1.0, 0.1, p, 100)

    found = light([signal(p) for p in (0.004, 0.5, 0.006, 0.9)])
    assert [s.p_value for s in found] == pytest.approx([0.016, 1.0, 0.018, 1.0])
    assert not any(s.lit for s in found)
    assert light([signal(0.004)])[0].lit


def test_an_effect_that_matters_to_nobody_is_not_lit() -> None:
    now = window(seed=3, count=40_000, worse={"cheap": 0.03})
    reference = window(seed=4, count=40_000)
    (found,) = (
        s
        for s in find_signals(reference, now, now)
        if s.key == ("predictor-drift", "cheap") and "quality" in s.what
    )
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert not found.lit


def test_the_classifier_tells_what_moved(rng: np.random.Generator) -> None:
    old, new = rng.normal(size=(200, 8)), rng.normal(size=(200, 8))
    new[:, 2] += 3.0
    scores = domain_classifier(old, new)
    assert scores[200:].mean() > scores[:200].mean() + 0.3


def state(**candidate: float) -> dict[str, Any]:
    told = {"norm": 0.2, "score": 0.0, **candidate}
    return {"version": 7, "refused": None, "statistics": {"candidates": {"cheap": told}}}


def test_a_refused_state_is_unstable() -> None:
    refused = {**state(), "refused": "A is not finite"}
    (found,) = unstable([refused, state()], 1.0)
    assert found.lit
    assert "A is not finite" in found.what


def test_weights_beyond_their_bound_are_unstable() -> None:
    (calm,) = unstable([state(norm=1.0)], 1.0)
    (wild,) = unstable([state(norm=9.0)], 1.0)
    assert (calm.lit, wild.lit) == (False, True)


def test_a_score_that_swings_is_unstable() -> None:
    swings = [state(score=0.2 * (-1) ** i) for i in range(STATES)]
    climbs = [state(score=0.1 * i) for i in range(STATES)]
    assert [s.lit for s in unstable(swings, 1.0)] == [True]
    assert [s.lit for s in unstable(climbs, 1.0)] == [False]


def test_voters_newly_held_are_told_once() -> None:
    assert [s.subject for s in poisoned(["a", "b"], ["a"], 1.0)] == ["b"]


def test_an_old_release_is_stale() -> None:
    assert stale(91.0, 90.0).lit
    assert not stale(89.0, 90.0).lit


def test_values_that_do_not_vary_are_compared() -> None:
    one = window(seed=1)
    for name in ("reward", "quality"):
        one.rows[name] = 1.0
    found = find_signals(one, one, one)
    assert all(np.isfinite(s.p_value or 0.0) for s in found)
    assert not any(s.lit for s in found)
