import json
from pathlib import Path

import numpy as np
import pytest

from models.errors import PolicyError
from models.learning.policy_state import PolicyState, Vote
from models.predictors.uncertainty import along
from models.release.release import Release, RouteContext

QUERIES = ("Compute 12 * 7.", "Write a poem about rain.", "What is the capital of Peru?")


@pytest.fixture(scope="module")
def release(release_folder: Path) -> Release:
    return Release.load(release_folder)


@pytest.fixture
def state(release: Release) -> PolicyState:
    return PolicyState.untaught(release.digest, release.compiled)


def votes(release: Release, count: int, seed: int = 0) -> list[Vote]:
    rng = np.random.default_rng(seed)
    width = release.encoder.encode([QUERIES[0]]).shape[1]
    made = []
    for i in range(count):
        embedding = np.asarray(rng.normal(size=width))
        made.append(
            Vote(
                position=i + 1,
                decision=rng.bytes(16),
                llm=release.candidates[int(rng.integers(len(release.candidates)))],
                embedding=np.asarray(embedding / np.linalg.norm(embedding), np.float32),
                predicted=0.7,
                reward=float(rng.random() < 0.7),
                graded=bool(i % 3 == 0),
                voter=f"v{rng.integers(5)}",
                replaced=0.0 if i % 10 == 9 else None,
            )
        )
    return made


def test_without_votes_the_router_decides_exactly_as_the_release(
    release: Release, state: PolicyState
) -> None:
    for query in QUERIES:
        plain, followed = release.route(query), release.route(query, RouteContext(policy=state))
        assert plain.decision.llm == followed.decision.llm
        assert (plain.decision.terms.total == followed.decision.terms.total).all()


def test_votes_change_who_is_chosen(release: Release, state: PolicyState) -> None:
    query = QUERIES[0]
    before = release.route(query)
    for i in range(120):
        state.apply(
            Vote(
                i + 1,
                np.random.default_rng(i).bytes(16),
                before.decision.llm,
                before.embedding,
                0.9,
                float(i % 10 == 0),
                False,
                f"v{i % 7}",
            )
        )
    after = release.route(query, RouteContext(policy=state))
    assert after.decision.llm != before.decision.llm
    i = before.decision.choice
    assert after.decision.terms.feedback[i] < -0.3
    assert after.decision.estimates.uncertainty[i] < before.decision.estimates.uncertainty[i]


def test_uncertainty_is_that_of_all_rows_seen(release: Release, state: PolicyState) -> None:
    first = votes(release, 40)
    for vote in first:
        state.apply(vote)
    name = release.candidates[0]
    rows = [v.embedding for v in first if v.llm == name and v.replaced is None]
    z = along(np.stack(rows), state.directions[state.sees[0]]).astype(np.float64)
    offline = PolicyState.untaught(release.digest, release.compiled).inverses[0]
    wanted = np.linalg.inv(np.linalg.inv(offline) + z.T @ z)
    assert np.abs(state.inverses[0] - wanted).max() < 1e-6


def test_replayed_in_other_batches_it_is_the_same_bytes(
    release: Release, state: PolicyState
) -> None:
    made = votes(release, 300)
    for vote in made:
        state.apply(vote)
    other = PolicyState.untaught(release.digest, release.compiled)
    for start in range(0, 300, 77):
        for vote in made[start : start + 77]:
            other.apply(vote)
        other = PolicyState.parse(other.dump())
    assert other.dump() == state.dump()
    assert state.counts["applied"] == 300
    assert state.counts["corrections"] == 30


def test_a_correction_replaces_what_people_are_shown(release: Release, state: PolicyState) -> None:
    (vote,) = votes(release, 1)
    state.apply(Vote(**{**vars(vote), "reward": 1.0}))
    state.apply(Vote(**{**vars(vote), "position": 2, "reward": 0.0, "replaced": 1.0}))
    shown = state.statistics()["candidates"][vote.llm]
    assert (shown["votes"], shown["mean_reward"], shown["mean_predicted"]) == (2, 0.0, 0.7)


def test_a_vote_is_never_applied_twice(release: Release, state: PolicyState) -> None:
    (vote,) = votes(release, 1)
    state.apply(vote)
    with pytest.raises(PolicyError, match="vote 1 comes after vote 1"):
        state.apply(vote)


def test_a_vote_on_a_stranger_is_passed_over(release: Release, state: PolicyState) -> None:
    before = state.inverses.copy()
    vote = votes(release, 1)[0]
    state.apply(Vote(**{**vars(vote), "llm": "nobody"}))
    assert state.passed_over == {"no such candidate": 1}
    assert state.cursor == 1
    assert (state.inverses == before).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.inverses.__setitem__((0, 0, 0), np.nan), "not finite"),
        (lambda s: s.inverses.__setitem__((0, 0, 1), 0.5), "not symmetric"),
        (lambda s: s.inverses.__setitem__(0, -s.inverses[0]), "not positive definite"),
        (lambda s: s.inverses.__setitem__(0, 2 * np.eye(len(s.inverses[0]))), "smaller than"),
        (lambda s: setattr(s, "inverses", s.inverses[1:]), "A is"),
        (lambda s: s.network.output.__setitem__((0, 0, 0), np.inf), "not finite"),
        (lambda s: s.scales.__setitem__((0, 0), np.nan), "not finite"),
    ],
)
def test_a_bad_state_is_not_written(state: PolicyState, spoil: object, message: str) -> None:
    spoil(state)  # type: ignore[operator]
    with pytest.raises(PolicyError, match=message):
        state.dump()


def test_a_bad_state_is_not_read(state: PolicyState) -> None:
    good = state.dump()
    assert PolicyState.parse(good).dump() == good
    for bad in (b"", b"nonsense", good[:-8], good[:200]):
        with pytest.raises(PolicyError):
            PolicyState.parse(bad)
    other = good.replace(b'format_version\\": 1', b'format_version\\": 9')
    assert other != good
    with pytest.raises(PolicyError, match="not of format 1"):
        PolicyState.parse(other)


def test_statistics_are_json(release: Release, state: PolicyState) -> None:
    for vote in votes(release, 50):
        state.apply(vote)
    shown = json.loads(json.dumps(state.statistics()))
    assert shown["applied"] == 50
    assert sum(row["votes"] for row in shown["candidates"].values()) == 50
