import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.measures import Interval, Routed, aiq, compare, cost_at, hull


def test_aiq_by_hand() -> None:
    cost, quality = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert aiq(cost, quality, 1.0, 3.0) == pytest.approx(0.6)
    assert aiq(cost, quality, 1.0, 5.0) == pytest.approx((0.6 * 2 + 0.8 * 2) / 4)
    assert aiq(np.array([2.0]), np.array([0.8]), 1.0, 3.0) == pytest.approx((0.6 + 0.8) / 2)


def test_a_point_below_the_line_does_not_count() -> None:
    cost, quality = np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.5, 0.8])
    assert aiq(cost, quality, 1.0, 3.0) == pytest.approx(0.6)
    assert aiq(cost, quality - [0, 0, 0.6], 1.0, 3.0) == pytest.approx((0.45 + 0.5) / 2)


def test_free_candidates_are_no_special_case() -> None:
    assert aiq(np.array([0.0, 2.0]), np.array([0.5, 0.9]), 0.0, 2.0) == pytest.approx(0.7)


def test_cost_at_a_quality() -> None:
    cost, quality = np.array([1.0, 3.0]), np.array([0.4, 0.8])
    assert cost_at(cost, quality, 0.6) == pytest.approx(2.0)
    assert np.isnan(cost_at(cost, quality, 0.81))


@given(st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_hull_is_concave_rising_and_above_every_point(
    points: list[tuple[float, float]],
) -> None:
    cost, quality = np.array(points).T
    xs, ys = hull(cost, quality)
    assert (np.diff(xs) > 0).all()
    assert (np.diff(ys) > 0).all()
    slopes = np.diff(ys) / np.diff(xs)
    assert (np.diff(slopes) <= 1e-9 * np.abs(slopes[:-1])).all()
    assert (np.interp(cost, xs, ys) >= quality - 1e-9).all()


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    quality = (rng.random((300, 3)) < [0.3, 0.5, 0.8]).astype(float)
    return np.tile([1.0, 2.0, 9.0], (300, 1)) * rng.uniform(0.9, 1.1, (300, 3)), quality


def test_the_oracle_closes_the_gap_and_singles_none_of_it(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    cost, quality = rows
    lines = np.arange(300)
    picks = np.stack([np.argmax(quality - cost / w, axis=1) for w in np.geomspace(0.1, 1e3, 30)])
    oracle = Routed(cost[lines, picks], quality[lines, picks])
    best = Routed(cost[:, 2][None], quality[:, 2][None])
    got = compare(
        {"mixllm": oracle, "best_single": best}, oracle, Routed(cost.T, quality.T), draws=50
    )
    assert got["mixllm"].gap_closed.value == pytest.approx(1.0)
    assert got["zero"].gap_closed.value == pytest.approx(0.0)
    assert (got["best_single"].gap_closed.value or 0.0) < 0
    assert got["best_single"].cost_at_quality.value == pytest.approx(0.9725)
    assert (got["mixllm"].cost_at_quality.value or 1.0) < 0.9


def test_intervals_hold_the_value_and_are_paired(rows: tuple[np.ndarray, np.ndarray]) -> None:
    cost, quality = rows
    singles = Routed(cost.T, quality.T)
    same = Routed(cost.T.copy(), quality.T.copy())
    got = compare({"mixllm": singles, "same": same}, singles, singles, draws=200)
    cell = got["mixllm"].aiq
    assert (cell.low or 1.0) < (cell.value or 0.0) < (cell.high or 0.0)
    assert got["same"].aiq_over == Interval(0.0, 0.0, 0.0)


def test_what_is_never_reached_has_no_value(rows: tuple[np.ndarray, np.ndarray]) -> None:
    cost, quality = rows
    worst = Routed(cost[:, 0][None], quality[:, 0][None])
    singles = Routed(cost.T, quality.T)
    got = compare({"mixllm": worst}, singles, singles, draws=50)
    assert got["mixllm"].cost_at_quality == Interval(None, None, None)
