import numpy as np
import pytest

from models.errors import PolicyError
from models.learning.feedback_network import COPIES, MAX_NORM, FeedbackNetwork, Target, copy_counts

WIDTH, CANDIDATES = 24, 3


def unit(rng: np.random.Generator) -> np.ndarray:
    row = rng.normal(size=WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float32)


@pytest.fixture
def network() -> FeedbackNetwork:
    return FeedbackNetwork.drawn(WIDTH, CANDIDATES)


def test_an_untaught_network_has_no_say(network: FeedbackNetwork, rng: np.random.Generator) -> None:
    weighted, kappa = network.weighted(network.features(unit(rng)))
    assert (weighted == 0).all()
    assert (kappa == 0).all()


@pytest.mark.parametrize("graded", [True, False])
def test_a_candidate_that_does_worse_than_predicted_is_scored_down(
    network: FeedbackNetwork, rng: np.random.Generator, graded: bool
) -> None:
    for _ in range(200):
        counts = copy_counts(rng.bytes(16))
        network.learn(network.features(unit(rng)), Target(1, -0.4, graded), counts)
    weighted, kappa = network.weighted(network.features(unit(rng)))
    assert -0.5 < weighted[1] < -0.25
    assert kappa[1] > 0.9
    assert np.abs(weighted[[0, 2]]).max() < 0.6 * -weighted[1], "the others move less, if at all"


def test_learning_ends_where_expectation_meets_truth(
    network: FeedbackNetwork, rng: np.random.Generator
) -> None:
    for _ in range(3000):
        reward = float(rng.random() < 0.6)
        query, target = network.features(unit(rng)), Target(0, reward - 0.6, graded=False)
        network.learn(query, target, copy_counts(rng.bytes(16)))
    weighted, kappa = network.weighted(network.features(unit(rng)))
    assert abs(weighted[0]) < 0.06
    assert kappa[0] < 0.9, "noise alone is not believed"


def test_a_correction_makes_up_for_what_was_said_before(
    network: FeedbackNetwork, rng: np.random.Generator
) -> None:
    query, counts = network.features(unit(rng)), np.ones(COPIES)
    network.learn(query, Target(0, 0.5, graded=True), counts)
    network.learn(query, Target(0, -0.5, graded=True, replaced=0.5), counts)
    other = FeedbackNetwork.drawn(WIDTH, CANDIDATES)
    other.learn(query, Target(0, -0.5, graded=True), counts)
    assert network.scores(query)[0][0] == pytest.approx(other.scores(query)[0][0], abs=1e-3)


def test_what_no_learning_makes_is_refused(network: FeedbackNetwork) -> None:
    network.check()
    network.output[0, 0, 0] = 2 * MAX_NORM
    with pytest.raises(PolicyError, match="reach"):
        network.check()
    network.output[0, 0, 0] = np.nan
    with pytest.raises(PolicyError, match="not finite"):
        network.check()
    network.output = network.output[:, :2]
    with pytest.raises(PolicyError, match="do not fit"):
        network.check()


def test_each_copy_counts_about_half_of_the_votes_twice(rng: np.random.Generator) -> None:
    counts = np.array([copy_counts(rng.bytes(16)) for _ in range(2000)])
    assert set(np.unique(counts)) == {0.0, 2.0}
    assert np.abs(counts.mean(axis=0) - 1.0).max() < 0.08
    same = copy_counts(b"0123456789abcdef")
    assert (same == copy_counts(b"0123456789abcdef")).all()
