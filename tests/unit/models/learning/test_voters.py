import numpy as np
import pytest

from models.learning.voters import LARGEST_SHARE, Voters


def run(voters: Voters, rng: np.random.Generator, names: list[str], liars: set[str]) -> None:
    """1,500 votes on answers that satisfy with 0.5 to 0.95, as predicted."""
    for _ in range(1500):
        name = names[int(rng.integers(len(names)))]
        expected = float(rng.uniform(0.5, 0.95))
        reward = float(rng.random() < expected)
        voters.weigh(name, expected, 1.0 - reward if name in liars else reward)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_who_votes_against_the_truth_is_held_and_nobody_else(
    count: int, rng: np.random.Generator
) -> None:
    voters, names = Voters(), [f"v{i}" for i in range(10)]
    liars = set(names[:count])
    run(voters, rng, names, liars)
    assert set(voters.held) == liars
    assert voters.weigh("v0", 0.9, 0.0) == 0.0
    assert voters.weigh("v9", 0.9, 1.0) > 0.0


def test_honest_voters_are_left_alone(rng: np.random.Generator) -> None:
    voters = Voters()
    run(voters, rng, [f"v{i}" for i in range(10)], set())
    assert voters.held == []


def test_where_all_disagree_it_is_the_expectation_that_is_wrong(rng: np.random.Generator) -> None:
    voters, names = Voters(), [f"v{i}" for i in range(6)]
    run(voters, rng, names, set(names))
    assert voters.held == []


def test_a_single_voter_is_never_held() -> None:
    voters = Voters()
    for _ in range(300):
        assert voters.weigh("only", 0.9, 0.0) == 1.0


def test_a_voter_who_tells_the_truth_again_is_believed_again(rng: np.random.Generator) -> None:
    voters, names = Voters(), [f"v{i}" for i in range(10)]
    run(voters, rng, names, {"v0"})
    assert voters.held == ["v0"]
    run(voters, rng, names, set())
    assert voters.held == []


def test_nobody_has_more_than_a_share_of_the_say(rng: np.random.Generator) -> None:
    voters = Voters()
    said = dict.fromkeys([f"v{i}" for i in range(10)], 0.0)
    for _ in range(3000):
        name = "v0" if rng.random() < 0.8 else f"v{rng.integers(1, 10)}"
        said[name] += voters.weigh(name, 0.7, float(rng.random() < 0.7))
    loud = said["v0"] / 3000
    assert loud == pytest.approx(LARGEST_SHARE, abs=0.05), "of 80 % of the votes"


def test_who_has_long_been_silent_is_forgotten_unless_held(rng: np.random.Generator) -> None:
    voters, names = Voters(), [f"v{i}" for i in range(10)]
    run(voters, rng, names, {"v0"})
    voters.weigh("once", 0.7, 1.0)
    for _ in range(6):
        run(voters, rng, names[1:], set())
    assert "once" not in voters.voters
    assert voters.held == ["v0"]


def test_written_and_read_it_goes_on_the_same(rng: np.random.Generator) -> None:
    voters = Voters()
    run(voters, rng, ["a", "b", "c"], {"c"})
    again = Voters.parse(voters.dump())
    assert again.weigh("a", 0.8, 1.0) == voters.weigh("a", 0.8, 1.0)
    assert again.dump() == voters.dump()
