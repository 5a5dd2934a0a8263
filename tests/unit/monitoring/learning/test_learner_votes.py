"""Which logged votes can teach a release, and what they teach it."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from models.learning.policy_state import Vote
from monitoring.learning.learner import Subject, WaitingVote
from monitoring.learning.policy_states import Skips
from monitoring.store.releases import Parts

WIDTH = 3
PARTS = Parts("encoder", {"a": "predictor of a", "b": "predictor of b"})
VOTE = WaitingVote(
    position=7,
    decision_id=UUID(int=5),
    source="ann",
    key_id=None,
    llm="a",
    satisfied=True,
    quality=None,
    release_digest="release",
    embedding=np.array([1.0, 2.0, 3.0], dtype="<f4").tobytes(),
    predicted=0.75,
    replaced_reward=None,
)


def applied(vote: WaitingVote, known: dict[str, Parts] | None = None) -> Vote | str:
    class Untaught:
        directions = np.zeros((1, WIDTH))

    untaught: Any = Untaught()
    return vote.to_apply(Subject(untaught, PARTS), "release", known or {})


def test_a_binary_vote_is_applied_with_what_was_predicted() -> None:
    vote = applied(VOTE)
    assert isinstance(vote, Vote)
    assert (vote.position, vote.decision, vote.llm) == (7, UUID(int=5).bytes, "a")
    assert (vote.predicted, vote.reward, vote.graded) == (0.75, 1.0, False)
    assert vote.embedding.tolist() == [1.0, 2.0, 3.0]


def test_a_grade_is_its_reward_and_a_correction_says_what_it_replaces() -> None:
    vote = applied(replace(VOTE, satisfied=None, quality=0.25, replaced_reward=1.0))
    assert isinstance(vote, Vote)
    assert (vote.reward, vote.graded, vote.replaced) == (0.25, True, 1.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"embedding": None}, "no routed decision"),
        ({"embedding": b"\0" * 4}, "an embedding of another width"),
        ({"satisfied": None}, "no judgement"),
        ({"predicted": None}, "nothing was predicted of who answered"),
        ({"release_digest": None}, "an unknown release decided"),
        ({"release_digest": "other"}, "an unknown release decided"),
    ],
)
def test_what_cannot_teach_says_why(changes: dict[str, Any], reason: str) -> None:
    assert applied(replace(VOTE, **changes)) == reason


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Parts("another", PARTS.predictors), "another encoder"),
        (Parts("encoder", {**PARTS.predictors, "a": "refitted"}), "another predictor"),
    ],
)
def test_another_releases_decision_teaches_only_with_the_same_parts(
    other: Parts, reason: str
) -> None:
    vote = replace(VOTE, release_digest="other")
    assert applied(vote, {"other": other}) == reason
    alike = Parts("encoder", {**PARTS.predictors, "b": "refitted"})
    assert isinstance(applied(vote, {"other": alike}), Vote)


def test_a_voter_is_its_key_or_its_source() -> None:
    assert VOTE.voter == "source:ann"
    assert replace(VOTE, key_id="1a2b").voter == "1a2b"


def test_skips_cover_a_voters_range_of_positions() -> None:
    skips = Skips(((3, 7, "source:ann"), (20, 30, None)))
    assert skips.covers(VOTE.position, VOTE.voter)
    assert not skips.covers(3, VOTE.voter), "a range begins after its first position"
    assert not skips.covers(VOTE.position, "source:bob")
    assert skips.covers(30, "source:bob")
