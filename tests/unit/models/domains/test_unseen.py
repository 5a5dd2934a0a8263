import numpy as np
import pytest

from models.domains.unseen import UnseenScore


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def blobs(rng: np.random.Generator, centres: np.ndarray, each: int) -> np.ndarray:
    return unit(np.repeat(centres, each, axis=0) + 0.1 * rng.normal(size=(each * len(centres), 24)))


def test_a_new_cluster_is_unseen_and_training_queries_are_not(rng: np.random.Generator) -> None:
    centres = unit(rng.normal(size=(6, 24)))
    seen, other = blobs(rng, centres[:5], 200), blobs(rng, centres[5:], 200)
    score = UnseenScore().fit(seen)
    fresh = blobs(rng, centres[:5], 200)
    assert np.mean(score.score(fresh) > 1) == pytest.approx(0.01, abs=0.02)
    assert np.mean(score.score(other) > 1) > 0.95


def test_the_same_arrays_give_the_same_score(rng: np.random.Generator) -> None:
    rows = unit(rng.normal(size=(300, 24)))
    score = UnseenScore(seed=3).fit(rows)
    np.testing.assert_array_equal(UnseenScore.of(score.arrays).score(rows), score.score(rows))
    np.testing.assert_array_equal(UnseenScore(seed=3).fit(rows).score(rows), score.score(rows))


@pytest.mark.parametrize("count", [1, 2, 4, 11])
def test_few_queries_still_have_a_finite_score(count: int, rng: np.random.Generator) -> None:
    rows = unit(rng.normal(size=(count, 8)))
    assert np.isfinite(UnseenScore().fit(rows).score(rows)).all()
