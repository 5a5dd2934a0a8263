from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from models.errors import ReleaseError
from models.predictors.shrinkage import ARRAYS_FILE, Shrinkage

NAMES = ["a", "b", "c", "d"]
MEANS = np.array([0.3, 0.5, 0.6, 0.4])
N = 4_000


@pytest.fixture
def true(rng: np.random.Generator) -> np.ndarray:
    """Qualities that vary by one direction alone, common to a and b."""
    return np.asarray(MEANS + 0.1 * rng.normal(size=(N, 1)) * np.array([1.0, 1.0, 0.0, 0.0]))


def test_noise_is_not_believed_and_what_holds_is(
    true: np.ndarray, rng: np.random.Generator
) -> None:
    noisy = true + 0.05 * rng.normal(size=true.shape)
    outcome = true + 0.3 * rng.normal(size=true.shape)
    shrunk = Shrinkage.fit(NAMES, noisy, outcome, MEANS).over(NAMES, MEANS)(noisy)
    assert np.mean((shrunk - true) ** 2) < 0.35 * np.mean((noisy - true) ** 2)
    assert np.corrcoef(shrunk[:, 0], true[:, 0])[0, 1] > 0.9
    assert shrunk[:, 2].std() < 0.02


def test_what_is_true_stays(true: np.ndarray) -> None:
    got = Shrinkage.fit(NAMES, true, true, MEANS).over(NAMES, MEANS)(true)
    np.testing.assert_allclose(got, np.clip(true, 0, 1), atol=1e-9)


def test_predictions_that_say_nothing_stay_at_the_means(rng: np.random.Generator) -> None:
    flat = np.tile(MEANS, (50, 1))
    got = Shrinkage.fit(NAMES, flat, rng.random((50, 4)), MEANS).over(NAMES, MEANS)(flat)
    np.testing.assert_allclose(got, flat)


def test_without_a_candidate_it_is_as_if_fitted_without(
    true: np.ndarray, rng: np.random.Generator
) -> None:
    noisy = true + 0.05 * rng.normal(size=true.shape)
    outcome = true + 0.3 * rng.normal(size=true.shape)
    kept = [3, 0, 1]
    names = [NAMES[i] for i in kept]
    part = noisy[:, kept], outcome[:, kept], MEANS[kept]
    whole = Shrinkage.fit(NAMES, noisy, outcome, MEANS).over(names, MEANS[kept])
    alone = Shrinkage.fit(names, *part).over(names, MEANS[kept])
    np.testing.assert_allclose(whole(part[0]), alone(part[0]), atol=1e-9)


def test_an_unknown_candidate_stays_as_predicted(
    true: np.ndarray, rng: np.random.Generator
) -> None:
    noisy = np.clip(true + 0.05 * rng.normal(size=true.shape), 0, 1)
    known = Shrinkage.fit(NAMES[:3], noisy[:, :3], true[:, :3], MEANS[:3])
    got = known.over(NAMES, MEANS)(noisy)
    np.testing.assert_array_equal(got[:, 3], noisy[:, 3])
    np.testing.assert_allclose(got[:, :3], known.over(NAMES[:3], MEANS[:3])(noisy[:, :3]))
    np.testing.assert_array_equal(known.over(["x", "y"], MEANS[:2])(noisy[:, :2]), noisy[:, :2])


def test_saved_and_loaded_it_is_the_same_and_a_bad_file_is_refused(
    true: np.ndarray, rng: np.random.Generator, tmp_path: Path
) -> None:
    noisy = true + 0.05 * rng.normal(size=true.shape)
    found = Shrinkage.fit(NAMES, noisy, true, MEANS)
    found.save(tmp_path)
    again = Shrinkage.load(tmp_path)
    np.testing.assert_array_equal(again.over(NAMES, MEANS)(noisy), found.over(NAMES, MEANS)(noisy))
    arrays = load_file(tmp_path / ARRAYS_FILE)
    arrays["truth"][0, 0] = np.nan
    save_file(arrays, tmp_path / ARRAYS_FILE)
    with pytest.raises(ReleaseError, match="truth"):
        Shrinkage.load(tmp_path)
