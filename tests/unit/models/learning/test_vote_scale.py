import numpy as np
import pytest

from models.learning import vote_scale


def learned(rng: np.random.Generator, level: float, slope: float) -> tuple[float, float]:
    sums = np.zeros(vote_scale.SUMS)
    for _ in range(6000):
        quality = float(rng.uniform(0.3, 1.0))
        vote_scale.add(sums, quality, float(rng.random() < level + slope * quality))
    return vote_scale.line(sums)


def test_without_votes_they_are_expected_to_be_the_quality() -> None:
    assert vote_scale.line(np.zeros(vote_scale.SUMS)) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(("level", "slope"), [(0.0, 1.0), (0.2, 0.6), (-0.2, 1.0)])
def test_how_votes_go_with_quality_is_learned(
    level: float, slope: float, rng: np.random.Generator
) -> None:
    found = learned(rng, level, slope)
    for quality in (0.4, 0.9):
        assert found[0] + found[1] * quality == pytest.approx(level + slope * quality, abs=0.06)


def test_votes_that_tell_nothing_keep_the_least_slope(rng: np.random.Generator) -> None:
    assert learned(rng, 0.5, 0.0)[1] == pytest.approx(vote_scale.LEAST_SLOPE, abs=0.1)
