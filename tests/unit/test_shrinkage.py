import numpy as np
import pytest

from models.shrinkage import deviation_scale, shrink

MEANS = np.array([0.3, 0.5, 0.8])


def test_full_scale_changes_nothing_and_none_keeps_the_order_of_the_means() -> None:
    quality = np.array([[0.6, 0.4, 0.5], [0.1, 0.9, 0.7]])
    np.testing.assert_allclose(shrink(quality, MEANS, 1.0), quality)
    flat = shrink(quality, MEANS, 0.0)
    np.testing.assert_allclose(np.diff(flat, axis=1), np.tile(np.diff(MEANS), (2, 1)))
    np.testing.assert_allclose(flat.mean(axis=1), quality.mean(axis=1))


def test_one_candidate_is_left_alone() -> None:
    np.testing.assert_allclose(shrink(np.array([[0.2]]), np.array([0.7]), 0.0), [[0.2]])


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1.0), (0.1, 0.5), (0.3, 0.1)])
def test_the_scale_is_the_share_of_signal(
    noise: float, expected: float, rng: np.random.Generator
) -> None:
    signal = rng.normal(0, 0.1, (4000, 3))
    predicted = MEANS + signal + rng.normal(0, 1, (4000, 3)) * noise
    assert deviation_scale(predicted, MEANS + signal, MEANS) == pytest.approx(expected, abs=0.05)


def test_predictions_without_deviations_have_no_scale() -> None:
    assert deviation_scale(np.tile(MEANS, (5, 1)), np.ones((5, 3)), MEANS) == 0.0
